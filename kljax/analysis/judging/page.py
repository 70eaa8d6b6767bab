"""The page as one HTML file: its texts lie in it as data, its code is the only one that a browser may run there.

The policy names the code by its digest and forbids every connection, so that a completion that looks like markup is text, and
nothing leaves the page.
"""

import base64
import hashlib
from importlib import resources

from kljax.analysis.judging.design import Design
from kljax.json_text import json_text


def html(made: Design) -> str:
    """The page of a design, without anything by which a and b could be told from one another."""
    folder = resources.files("kljax.analysis.judging")
    page, script = (folder.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("html", "js"))
    style = page.partition("<style>")[2].partition("</style>")[0]
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; base-uri 'none'; form-action 'none'"
    )
    filled = {"policy": policy, "script": script, "data": embedded({"id": made.page, **made.shown})}
    before, *parts = page.split("{{")
    return before + "".join(filled[name] + rest for name, _, rest in (part.partition("}}") for part in parts))


def embedded(values: object) -> str:
    """JSON in which no character could end a script element or begin a comment."""
    text = json_text(values)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
