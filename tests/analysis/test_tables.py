"""What is printed of a fitted model."""

from pathlib import Path

import pytest

from kljax.analysis import tables


@pytest.fixture
def shown(monkeypatch):
    """shown(result): the words of each line that is printed."""

    def show(result):
        with tables.console.capture() as captured:
            tables.show_base(result, Path("runs/bases/x"))
        return [line.replace("│", " ").split() for line in captured.get().splitlines()]

    return show


def test_figures_stand_beside_those_of_the_test_rows(shown):
    lines = shown({"steps": 7, "held_out_loss": 0.25, "held_out_pearson": None, "test/loss": 0.5, "test/pearson": 0.75})
    assert ["┃", "┃", "held", "out", "┃", "test", "┃"] in lines
    assert [line for line in lines if line[0].isalpha()] == [["steps", "7"], ["loss", "0.25", "0.5"], ["pearson", "0.75"]]


def test_without_test_rows_there_is_no_column_for_them(shown):
    lines = shown({"steps": 7, "held_out_nats_tok": 1.5, "bigram_nats_tok": 2.5})
    assert ["nats_tok", "1.5"] in lines and ["bigram_nats_tok", "2.5"] in lines
    assert not any("test" in line for line in lines)


def test_a_confusion_matrix_is_a_table_with_names_that_may_hold_anything(shown):
    result = {"labels": ["[red]", "b", "c"], "held_out_confusion_matrix": [[4, 1, 0], [2, 5, 0], [0, 0, 6]]}
    lines = shown(result | {f"held_out_{name}_of_each": [0.5, 0.25, 1.0] for name in ("precision", "recall", "f1")})
    assert ["[red]", "4", "1", "0", "0.500", "0.500", "0.500"] in lines
    assert ["c", "0", "0", "6", "1.000", "1.000", "1.000"] in lines


def test_many_classes_are_left_to_the_file(shown):
    count = tables.MOST_CLASSES + 1
    lines = shown({"labels": [str(i) for i in range(count)], "held_out_confusion_matrix": [[0] * count] * count})
    assert not any("predicted" in line for line in lines)


def test_an_interval_stands_behind_its_figure_and_is_no_row(shown):
    figures = {"held_out_loss": 0.25, "held_out_loss_interval": [0.2, 0.31], "test/loss": 0.5, "test/loss_interval": [0.4, 0.6]}
    lines = shown(figures)
    assert ["loss", "0.25", "[0.2,", "0.31]", "0.5", "[0.4,", "0.6]"] in lines
    assert not any("loss_interval" in word for line in lines for word in line)
    assert any("bootstrap" in word for word in lines[-1])
    assert not any("bootstrap" in word for line in shown({"held_out_loss": 0.25}) for word in line)
