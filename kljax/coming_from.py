"""placeholder"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """x"""

    theirs: str
    ours: str | None
    note: str


ROWS: tuple[Row, ...] = ()


def answer(key: str) -> str | None:
    """x"""
    return None
