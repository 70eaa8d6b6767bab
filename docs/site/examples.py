"""What mkdocstrings is given: docstrings whose doctests are code blocks, as Markdown would make quotations of `>>>`."""

import re

from griffe import Extension

EXAMPLE = re.compile(r"^([ ]*)>>> .*\n(?:\1\S.*\n|\1[ ]+\S.*\n)*", re.MULTILINE)


class Examples(Extension):
    """Called by griffe with each object that it reads."""

    def on_object(self, *, obj, **kwargs) -> None:
        """Fence what begins with `>>>`, up to the next empty line."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The text with its doctests as Markdown code."""
    return EXAMPLE.sub(lambda found: f"{found[1]}```pycon\n{found[0]}{found[1]}```\n", text + "\n").rstrip("\n")
