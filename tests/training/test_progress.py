"""The bar on a terminal and the lines of a log file: figures first, in the columns that there are."""

import io

import pytest
from rich.console import Console

from kljax.training import progress
from kljax.training.progress import LINES, ProgressBar

FIGURES = {"reward": -4.123456, "KL": 12.34567, "beta": 0.0512345, "tok/s": 12345.6}
LABEL = "kl.beta-0.05+kl.penalty-k1_reward+optimizer.learning_rate-0.0003+seed-1"


def shown(monkeypatch, label, figures, *, width, terminal):
    """What is on the screen at the end, or all lines of the file."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system=None, legacy_windows=False)
    monkeypatch.setattr(progress, "console", console)
    with ProgressBar(label, 0, 1000) as bar:
        for done in range(1, 1001):
            bar.show(done, figures)
    lines = [line.rsplit("\r", 1)[-1].replace("\x1b[2K", "").rstrip() for line in out.getvalue().split("\n")]
    return [line for line in lines if "/1000" in line]


@pytest.mark.parametrize("label", ["default", LABEL, "[bold]x[/bold]"])
def test_at_80_columns_all_figures_are_whole_and_before_the_label(monkeypatch, label):
    line = shown(monkeypatch, label, FIGURES, width=80, terminal=True)[-1]
    assert len(line) <= 80
    before, figures, after = line.partition("reward -4.12  KL 12.3  beta 0.0512  tok/s 12,346")
    assert figures and "1000/1000" in before
    beginning = after.split()[-1].rstrip("…")
    assert beginning and label.startswith(beginning)
    assert ("…" in after) == (len(beginning) < len(label))


def test_where_there_is_room_the_label_is_whole(monkeypatch):
    assert shown(monkeypatch, LABEL, FIGURES, width=160, terminal=True)[-1].endswith(LABEL)


def test_a_narrow_terminal_gets_one_line(monkeypatch):
    lines = shown(monkeypatch, LABEL, FIGURES, width=40, terminal=True)
    assert all(len(line) <= 40 for line in lines)
    assert "1000/1000" in lines[-1]
    assert "reward -4.12" in lines[-1]


def test_a_log_file_gets_a_few_whole_lines_with_the_figures_first(monkeypatch):
    lines = shown(monkeypatch, LABEL, FIGURES, width=80, terminal=False)
    assert len(lines) == LINES
    assert lines[-1] == f"1000/1000  reward -4.12  KL 12.3  beta 0.0512  tok/s 12,346  {LABEL}"
