"""What mkdocs is given: pages whose links to files outside docs/, which GitHub follows, are the files' names."""

import posixpath
import re

LINK = re.compile(r"\[`?([^\]`]+)`?\]\((\.\./[^)#]*)[^)]*\)")


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """[text](../kljax/…) → `text`."""
    folder = posixpath.dirname(page.file.src_uri)

    def named(found: re.Match) -> str:
        outside = posixpath.normpath(posixpath.join(folder, found[2])).startswith("..")
        return f"`{found[1]}`" if outside else found[0]

    return LINK.sub(named, markdown)
