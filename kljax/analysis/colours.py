"""Tokens beside their nats, as coloured text for a notebook (HTML) and for a terminal."""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.text import Text

from kljax.progress import console

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 8  # completions of many
LARGE = 95  # percentile of all |values| that has the full colour
MORE, LESS = (224, 88, 24), (32, 120, 208)  # of positive values, of negative ones
WHITE = 255
SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True, eq=False, repr=False)
class TokenView:
    """Completions token by token, each with its nats; `frame` has one row a token."""

    title: str
    prompts: Sequence[str]
    tokens: Sequence[Sequence[str]]
    values: Sequence[np.ndarray]
    frame: "pd.DataFrame"

    @cached_property
    def largest(self) -> float:
        """The |value| that has the full colour, nats."""
        every = np.abs(np.concatenate([*self.values, np.zeros(1)]))
        return max(float(np.percentile(every[np.isfinite(every)], LARGE)), 1e-6)

    def _number(self, value: float) -> str:
        """With so many decimals that the largest has two digits."""
        return f"{value:z.{max(2, 1 - math.floor(math.log10(self.largest)))}f}"

    def _repr_html_(self) -> str:
        rows = zip(self.prompts[:SHOWN], self.tokens[:SHOWN], self.values[:SHOWN], strict=True)
        completions = "".join(self._html(*row) for row in rows)
        return f"<div><p><b>{escape(self.title)}</b>, nats per token; {escape(self._scale())}</p>{completions}</div>"

    def __repr__(self) -> str:
        """For a terminal; its colours where it is one."""
        out = StringIO()
        terminal = Console(
            file=out, width=console.width, force_terminal=console.is_terminal, color_system="auto", highlight=False
        )
        terminal.print(f"{self.title}, nats per token; {self._scale()}", markup=False)
        for i in range(min(len(self.tokens), SHOWN)):
            terminal.print(Text(repr(self.prompts[i]), style="dim"))
            for line in self._lines(self.tokens[i], self.values[i], terminal.width):
                terminal.print(line, soft_wrap=True)
        return out.getvalue().rstrip("\n")

    def _scale(self) -> str:
        more = f"; {SHOWN} of {len(self.tokens)} completions" if len(self.tokens) > SHOWN else ""
        return f"full colour at {self.largest:.3g}{more}"

    def _html(self, prompt: str, tokens: Sequence[str], values: np.ndarray) -> str:
        shown = []
        for token, value in zip(tokens, values, strict=True):
            (red, green, blue), part = shade(value, self.largest)
            style = f"background:rgba({red},{green},{blue},{0.75 * part:.2f});border-radius:3px;white-space:pre"
            above = f'<rt style="font-size:60%">{self._number(value)}</rt>'
            shown.append(f'<ruby style="{style}" title="{value:.6g} nats">{escape(visible(token))}{above}</ruby>')
        begun = f'<span style="opacity:.6;white-space:pre-wrap">{escape(_kept(prompt))}</span>'
        return f'<p style="line-height:2.4;font-family:monospace">{begun}{"&#8203;".join(shown)}</p>'

    def _lines(self, tokens: Sequence[str], values: np.ndarray, width: int) -> list[Text]:
        """Two lines at a time: tokens, and under each its nats."""
        lines, upper, lower = [], Text(), Text()
        for token, value in zip(tokens, values, strict=True):
            number, word = self._number(value), Text(visible(token))
            cell = max(word.cell_len, len(number)) + 1
            if upper.cell_len and upper.cell_len + cell > width:
                lines, upper, lower = [*lines, upper, lower], Text(), Text()
            colour, part = shade(value, self.largest)
            mixed = ",".join(str(round(WHITE + (of - WHITE) * 0.75 * part)) for of in colour)
            word.stylize(f"black on rgb({mixed})")
            upper.append_text(word).append(" " * (cell - word.cell_len))
            lower.append(f"{number:<{cell}}", style="dim")
        return [*lines, upper, lower]


def shade(value: float, largest: float) -> tuple[tuple[int, int, int], float]:
    """The colour of a value and how much of it there is, in [0, 1]; what is no number has all of it."""
    part = min(abs(value) / largest, 1.0) if np.isfinite(value) else 1.0
    return (MORE if not value < 0 else LESS), part


def visible(token: str) -> str:
    """A token in which nothing is invisible or changes a terminal: line breaks and tabs as signs, nothing at all as ·."""
    return "".join(SIGNS.get(sign) or _printable(sign) for sign in token) or "·"


def _printable(sign: str) -> str:
    """Escaped, where it is a control sign, one without width, or one that turns the direction of the text."""
    return f"\\u{ord(sign):04x}" if unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") else sign


def _kept(text: str) -> str:
    """A prompt as it is shown: its line breaks are some."""
    return "".join(sign if sign in "\n\t" else _printable(sign) for sign in text)
