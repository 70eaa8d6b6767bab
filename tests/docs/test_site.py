"""The site is built strictly and without network, and each of its links leads somewhere."""

import importlib.util
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from tests.readme.commands import ROOT

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mkdocs", "material", "mkdocstrings"))), reason="needs the extra docs"
)
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}


class Page(HTMLParser):
    """What a page refers to, what can be referred to in it, and its text outside code."""

    def __init__(self, file: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.text = ""
        self.code = 0
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.code += tag in ("code", "script", "style", "pre")
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value or "")
            if value and (tag, name) == ("a", "href"):
                self.links.append(value)
            if value and (tag, name) in LOADED and not dict(attrs).get("rel", "").startswith(("canonical", "next", "prev")):
                self.loaded.append(value)

    def handle_endtag(self, tag):
        self.code -= tag in ("code", "script", "style", "pre")

    def handle_data(self, data):
        self.text += "" if self.code else data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of the site by its file, built as `make docs` does but elsewhere."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    pages = {file.resolve(): Page(file) for file in folder.rglob("*.html")}
    assert len(pages) > 20
    return folder.resolve(), pages


def test_every_page_is_one_of_the_site(site):
    folder, pages = site
    for file in (ROOT / "docs").rglob("*.md"):
        assert folder / file.relative_to(ROOT / "docs").with_suffix(".html") in pages, file
    assert not list(folder.rglob("*.py*"))


def test_every_link_and_anchor_leads_somewhere(site):
    folder, pages = site
    broken = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            inside = folder / parts.path.lstrip("/") if parts.path.startswith("/") else file.parent / unquote(parts.path)
            target = file if not parts.path else inside.resolve()
            target = target / "index.html" if target.is_dir() else target
            found = target.exists() and (target not in pages or unquote(parts.fragment) in pages[target].anchors)
            if not found and file.name != "404.html":
                broken.append((str(file.relative_to(folder)), link))
    assert not broken


def test_nothing_is_loaded_from_elsewhere(site):
    folder, pages = site
    for file, page in pages.items():
        assert not [link for link in page.loaded if urlsplit(link).netloc], file
        missing = [link for link in page.loaded if not (file.parent / urlsplit(link).path.lstrip("/")).exists()]
        assert not missing or file.name == "404.html", file
    for sheet in folder.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", sheet.read_text("utf-8")), sheet


def test_markdown_and_doctests_were_understood(site):
    """What GitHub's Markdown takes and this one does not: a list or a table without an empty line before it, `>>>` in text."""
    for file, page in site[1].items():
        found = re.findall(r"^(?:[-*] \w|\|[ :-]+\|| *>>> |```).*", page.text, re.MULTILINE)
        assert not found, (file, found)


def test_a_link_out_of_docs_is_the_name_of_a_file():
    """Which GitHub follows; a link within stays, from a folder below docs/, too."""
    hook = runpy.run_path(str(ROOT / "docs" / "site" / "hooks.py"))["on_page_markdown"]
    text = "[`step.py`](../kljax/training/step.py) and [the table](../kljax/kl/penalties.py#L3), [kl](kl.md)"
    assert hook(text, SimpleNamespace(file=SimpleNamespace(src_uri="kl.md"))) == "`step.py` and `the table`, [kl](kl.md)"
    assert hook("[kl](../kl.md)", SimpleNamespace(file=SimpleNamespace(src_uri="api/kl.md"))) == "[kl](../kl.md)"


def test_an_api_page_has_what_the_module_has(site):
    from kljax import kl

    folder, pages = site
    anchors = pages[folder / "api" / "kl.html"].anchors | pages[folder / "api" / "oracle.html"].anchors
    for name in set(kl.__all__) - {"oracle"}:
        where = getattr(kl, name, None)
        assert any(anchor.rsplit(".", 1)[-1] == name for anchor in anchors), where
    assert "kljax.kl.oracle.Tree.sequences" in anchors
    assert any(anchor.startswith("kljax.config.kl.KlConfig") for anchor in pages[folder / "api" / "config.html"].anchors)
