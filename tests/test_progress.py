"""The bar on a terminal and the lines of a log file: figures first, in the columns that there are."""

import io
import re
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from kljax import progress
from kljax.progress import LINES, ProgressBar, working

FIGURES = {"reward": -4.123456, "KL": 12.34567, "beta": 0.0512345, "tok/s": 12345.6}
LABEL = "kl.beta-0.05+kl.penalty-k1_reward+optimizer.learning_rate-0.0003+seed-1"


@pytest.fixture
def output(monkeypatch):
    """output(terminal=…): what is written on such a console, whose clock goes on by `output.clock.now`."""

    def on(*, terminal, width=80):
        out = io.StringIO()
        console = Console(
            file=out, width=width, force_terminal=terminal, force_interactive=terminal, color_system=None, legacy_windows=False
        )
        monkeypatch.setattr(progress, "console", console)
        return out

    on.clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: on.clock.now))
    return on


def frames(out):
    """What a terminal shows, one after another."""
    return [frame.replace("\x1b[2K", "").rstrip() for frame in re.split(r"[\r\n]+", out.getvalue())]


def until(out, text):
    """Wait for what another thread writes."""
    late = time.monotonic() + 10
    while text not in out.getvalue():
        assert time.monotonic() < late, out.getvalue()
        time.sleep(0.01)


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


def test_a_terminal_shows_what_is_done_and_for_how_long_and_nothing_when_it_is_done(output):
    out = output(terminal=True)
    with working("compiling the training step"):
        until(out, "0 s compiling the training step")
        output.clock.now += 61
        until(out, "61 s compiling the training step")
        with working("reading [bold]files[/bold]"), ProgressBar("fit", 0, 3) as bar:  # one at a time
            bar.show(1, FIGURES)
    assert "files" not in out.getvalue() and "fit" not in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K") and out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1
    with working("restoring " + "a/long/path" * 20):
        until(out, "restoring")
    (line,) = {frame.lstrip(" ⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏") for frame in frames(out) if "restoring" in frame}
    assert line.startswith("0 s restoring a/long/path") and line.endswith("…")


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_or_ctrl_c_leaves_a_clean_terminal(output, terminal):
    out = output(terminal=terminal)
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), working("evaluating"):
            raise error
        with pytest.raises(error), ProgressBar("fit", 0, 3):
            raise error
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == (4 if terminal else 0)
    with working("what comes next"):
        if terminal:
            until(out, "what comes next")
    assert "done" not in out.getvalue()


def test_a_log_file_says_what_takes_long_and_how_long_it_took(output, monkeypatch):
    out = output(terminal=False)
    with working("compiling the training step"):
        pass
    assert out.getvalue() == ""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with working("compiling the training step"):
        until(out, "step")
        output.clock.now += 61.2
    assert out.getvalue() == "Compiling the training step …\n… done in 61 s.\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_says_what_it_waits_for_before_the_first_figures(output, monkeypatch, terminal):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    out = output(terminal=terminal)
    with ProgressBar("fit", 0, 3) as bar:
        until(out, "compiling 0 s" if terminal else "fit: compiling …\n")
        output.clock.now += 12
        if terminal:
            until(out, "compiling 12 s")
        bar.show(1, FIGURES)
    assert ("… done in 12 s.\n" in out.getvalue()) == (not terminal)
    assert "KL 12.3" in frames(out)[-2 if terminal else 2]
