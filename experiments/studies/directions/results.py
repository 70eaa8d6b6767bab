"""The results of a part of the study, as JSON beside its picture."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kljax.disk import whole_file
from kljax.json_text import strict_json_text


def write(settings: dict[str, Any], found: Sequence[Any], file: Path) -> None:
    """The settings, and a row for each of the dataclasses that were found."""
    text = strict_json_text({"settings": settings, "found": [asdict(one) for one in found]}, str(file), indent=1)
    with whole_file(file) as beside:
        beside.write_text(text + "\n", encoding="utf-8")
