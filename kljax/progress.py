"""Display of a run while it runs: a bar or a spinner on a terminal, a line now and then in a log file."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

console = Console(highlight=False)

LINES = 10  # of a run whose output is not a terminal
PATIENCE = 2.0  # seconds after which a log file, too, says what takes so long

_display = threading.Lock()  # a terminal shows one bar or spinner at a time: what is begun within another one shows nothing


class ProgressBar:
    """Entered, it shows steps done, the given figures, the time left, and of the title what room there is for.

    Before the first figures it says what is being waited for, and for how many seconds.
    """

    def __init__(self, title: str, first: int, total: int, waiting_for: str = "compiling"):
        self._title, self._total, self._live = title, total, console.is_terminal
        self._waiting_for, self._waiting = waiting_for, ExitStack()
        cut = Column(no_wrap=True, overflow="ellipsis")
        # In the order of their worth: a line is cut at its end, and a title can be as long as a file name.
        self._bar = Progress(
            BarColumn(bar_width=8),
            MofNCompleteColumn(table_column=replace(cut, min_width=2 * len(str(total)) + 1)),
            _Figures(table_column=cut.copy()),
            TimeRemainingColumn(compact=True, table_column=cut.copy()),
            TextColumn("{task.description}", markup=False, table_column=replace(cut, ratio=1)),
            expand=True,
            console=console,
            get_time=time.perf_counter,
        )
        self._task = self._bar.add_task(title, total=total, completed=first, figures=None, waiting_for=waiting_for)

    def __enter__(self) -> "ProgressBar":
        self._alone = _display.acquire(blocking=False)
        self._bar.disable = not (self._live and self._alone)
        if not self._live:
            self._waiting.enter_context(_lines(f"{self._title}: {self._waiting_for}"))
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._waiting.__exit__(*exception)
        self._bar.__exit__(None, None, None)
        if self._alone:
            _display.release()

    def show(self, done: int, figures: Mapping[str, float]) -> None:
        """`done` steps are done; `figures` are the last ones known."""
        self._waiting.close()
        if not (self._live or done % max(self._total // LINES, 1) == 0 or done == self._total):
            return
        text = "  ".join(f"{name} {_short(value)}" for name, value in figures.items())
        if self._live:
            self._bar.update(self._task, completed=done, figures=text)
        else:
            console.print(f"{done}/{self._total}  {text}  {self._title}", soft_wrap=True, markup=False)


def say(sentence: str) -> None:
    """Print what a launch has guessed, converted or left out."""
    console.print(sentence, soft_wrap=True, markup=False)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show what is being done, and for how many seconds, while it is: "compiling the training step".

    On a terminal a spinner, which leaves nothing behind. In a log file two lines, where it takes longer than PATIENCE.
    """
    if not _display.acquire(blocking=False):
        yield
        return
    try:
        with _spinner(what) if console.is_interactive else _lines(what[0].upper() + what[1:]):
            yield
    finally:
        _display.release()


@contextmanager
def _spinner(what: str) -> Iterator[None]:
    words = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    columns = SpinnerColumn(), _Figures(table_column=Column(no_wrap=True)), words
    with Progress(*columns, expand=True, transient=True, console=console, get_time=time.perf_counter) as spinner:
        spinner.add_task(what, total=None, figures=None, waiting_for="")
        yield


@contextmanager
def _lines(what: str) -> Iterator[None]:
    began, late = time.perf_counter(), threading.Event()

    def begin() -> None:
        late.set()
        console.print(f"{what} …", soft_wrap=True, markup=False)

    timer = threading.Timer(PATIENCE, begin)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
    if late.is_set():
        console.print(f"… done in {time.perf_counter() - began:.0f} s.")


class _Figures(ProgressColumn):
    """The figures that are known, or before there are any what is waited for and for how long."""

    def render(self, task: Task) -> Text:
        """One task's cell."""
        if (figures := task.fields["figures"]) is not None:
            return Text(figures)
        return Text(f"{task.fields['waiting_for']} {task.elapsed or 0:.0f} s".lstrip())


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
