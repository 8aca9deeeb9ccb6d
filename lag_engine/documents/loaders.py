"""Files to text: txt, md, html and pdf."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lag_engine.errors import DocumentError


class LoadedText(NamedTuple):
    """What a file says; the title is empty if it names none."""

    text: str
    title: str = ""


Loader = Callable[[Path], LoadedText]

_SILENT_TAGS = ("script", "style", "noscript", "template", "svg", "nav", "footer", "aside", "form")
_BLOCK_TAGS = re.compile(
    r"^(p|div|section|article|li|tr|h[1-6]|br|blockquote|pre|table|ul|ol|dt|dd|td|th|header)$"
)
# Stands between blocks, since a line break of the source is only a space on the page.
_BORDER = "\x1e"
_HEADING = re.compile(r"^#\s+(.+?)\s*#*\s*$", re.MULTILINE)
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def load_plain(path: Path) -> LoadedText:
    """A text file, as it is."""
    return LoadedText(_read(path))


def load_markdown(path: Path) -> LoadedText:
    """A Markdown file without its front matter; the title is its first top heading."""
    text = _FRONT_MATTER.sub("", _read(path))
    heading = _HEADING.search(text)
    return LoadedText(text, heading[1] if heading else "")


def load_html(path: Path) -> LoadedText:
    """What a page shows of its main part, a line for each block; needs Beautiful Soup."""
    soup = _beautiful_soup(path)
    for tag in soup(_SILENT_TAGS):
        tag.decompose()
    main = soup.find("main") or soup.find("article") or soup.body or soup
    for tag in main.find_all(_BLOCK_TAGS):
        tag.insert_before(_BORDER)
        tag.insert_after(_BORDER)
    lines = (" ".join(line.split()) for line in main.get_text().split(_BORDER))
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    return LoadedText("\n".join(line for line in lines if line), title)


def load_pdf(path: Path) -> LoadedText:
    """A PDF's text layer, page after page; needs pypdf."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError as error:
        raise _missing("pypdf", path) from error
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise _unreadable(path, "it is locked by a password", "save it without one")
        pages = [page.extract_text().strip() for page in reader.pages]
        title = str((reader.metadata and reader.metadata.title) or "")
    except (PyPdfError, OSError, ValueError, KeyError) as error:
        words = f"{type(error).__name__}: {error}"
        raise _unreadable(path, words, "check the file, or save it as text") from error
    return LoadedText("\n\n".join(page for page in pages if page), " ".join(title.split()))


LOADERS: Mapping[str, Loader] = {
    ".htm": load_html,
    ".html": load_html,
    ".markdown": load_markdown,
    ".md": load_markdown,
    ".pdf": load_pdf,
    ".txt": load_plain,
}
"""Ends of file names, in lower case, and what reads such files."""


def load_text(path: Path, loaders: Mapping[str, Loader] = LOADERS) -> LoadedText:
    """Reads a file.

    Raises:
        DocumentError: It cannot be read, or says nothing.
    """
    loaded = loaders[path.suffix.lower()](path)
    if not loaded.text.strip():
        is_scan = path.suffix.lower() == ".pdf"
        advice = "a scan needs text recognition first" if is_scan else "fill it or take it out"
        raise _unreadable(path, "no text in it", advice)
    return loaded._replace(text=loaded.text.strip())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error), "save it as UTF-8") from error


def _beautiful_soup(path: Path) -> Any:
    try:
        from bs4 import BeautifulSoup
    except ImportError as error:
        raise _missing("beautifulsoup4", path) from error
    try:
        # Bytes: Beautiful Soup finds the encoding from the page itself.
        return BeautifulSoup(path.read_bytes(), "html.parser")
    except OSError as error:
        raise _unreadable(path, str(error), "check the file") from error


def _missing(package: str, path: Path) -> DocumentError:
    return DocumentError(
        f"Expected {package}, which reads {path.suffix} files",
        f"it is not installed, and {path} needs it",
        "run `pip install 'lag-integrations[documents]'`",
    )


def _unreadable(path: Path, found: str, action: str) -> DocumentError:
    return DocumentError(f"Expected text in {path}", f"found: {found}", action)
