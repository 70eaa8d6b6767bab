"""What a run shows while it runs: a bar on a terminal, a line now and then in a log file."""

from collections.abc import Mapping
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

console = Console(highlight=False)

LINES = 10  # of a run whose output is not a terminal


class ProgressBar:
    """Entered, it shows steps done, the given figures, the time left, and of the title what room there is for."""

    def __init__(self, title: str, first: int, total: int):
        self._title, self._total, self._live = title, total, console.is_terminal
        cut = Column(no_wrap=True, overflow="ellipsis")
        # In the order of their worth: a line is cut at its end, and a title can be as long as a file name.
        self._bar = Progress(
            BarColumn(bar_width=8),
            MofNCompleteColumn(table_column=replace(cut, min_width=2 * len(str(total)) + 1)),
            TextColumn("{task.fields[figures]}", markup=False, table_column=cut.copy()),
            TimeRemainingColumn(compact=True, table_column=cut.copy()),
            TextColumn("{task.description}", markup=False, table_column=replace(cut, ratio=1)),
            expand=True,
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task(title, total=total, completed=first, figures="compiling")

    def __enter__(self) -> "ProgressBar":
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.__exit__(None, None, None)

    def show(self, done: int, figures: Mapping[str, float]) -> None:
        """`done` steps are done; `figures` are the last ones known."""
        if not (self._live or done % max(self._total // LINES, 1) == 0 or done == self._total):
            return
        text = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        if self._live:
            self._bar.update(self._task, completed=done, figures=text)
        else:
            console.print(f"{done}/{self._total}  {text}  {self._title}", soft_wrap=True, markup=False)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
