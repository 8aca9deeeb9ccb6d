from __future__ import annotations

import sys

import pytest

from lag_engine.documents.loaders import LOADERS, load_text
from lag_engine.errors import DocumentError


@pytest.fixture
def file(tmp_path):
    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def test_a_text_file_comes_as_it_is_without_its_byte_order_mark(file):
    loaded = load_text(file("a.TXT", b"\xef\xbb\xbfZ\xc3\xbcrich.\n"))
    assert loaded == ("Zürich.", "")


def test_markdown_gives_its_first_heading_as_title_and_no_front_matter(file):
    loaded = load_text(file("a.md", "---\nauthor: me\n---\n# Mars #\n\nIt is *red*.\n## Moons\n"))
    assert loaded == ("# Mars #\n\nIt is *red*.\n## Moons", "Mars")
    assert load_text(file("b.md", "plain")).title == ""


HTML = """<!doctype html><html><head><title> The  red
planet </title><style>p {color: red}</style></head><body>
<nav>Home | Mars</nav><main><h1>Mars</h1><p>It is <b>red</b>,
and far.</p><script>alert(1)</script><ul><li>Phobos</li><li>Deimos</li></ul></main>
<footer>2026</footer></body></html>"""


def test_html_gives_the_shown_text_of_its_main_part_line_by_line(file):
    loaded = load_text(file("a.html", HTML))
    assert loaded.title == "The red planet"
    assert loaded.text.splitlines() == ["Mars", "It is red, and far.", "Phobos", "Deimos"]


def test_html_without_main_part_or_title_gives_its_body(file):
    assert load_text(file("a.htm", "<p>One</p><p>Two")) == ("One\nTwo", "")


def test_html_in_another_encoding_is_read_by_what_it_says(file):
    page = '<meta charset="iso-8859-1"><p>Zürich</p>'.encode("iso-8859-1")
    assert load_text(file("a.html", page)).text == "Zürich"


def pdf(*pages, title=None, password=None):
    """A PDF whose pages say these texts, built object by object."""
    import io

    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    for text in pages:
        page = writer.add_blank_page(width=300, height=200)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def test_a_pdf_gives_its_pages_and_title(file):
    loaded = load_text(file("a.pdf", pdf("Mars is red.", "It has two moons.", title="Mars")))
    assert loaded == ("Mars is red.\n\nIt has two moons.", "Mars")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.txt", b" \n", "no text"),
        ("a.pdf", b"not a pdf", "a.pdf"),
        ("a.html", b"<script>only()</script>", "no text"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_read_is_refused_by_its_path(file, name, content, words):
    path = file(name, content)
    with pytest.raises(DocumentError, match=words) as caught:
        load_text(path)
    assert str(path) in str(caught.value)


def test_a_scanned_or_locked_pdf_is_refused_with_what_to_do(file):
    with pytest.raises(DocumentError, match="scanned"):
        load_text(file("a.pdf", pdf("")))
    with pytest.raises(DocumentError, match="password"):
        load_text(file("b.pdf", pdf("secret", password="x")))


@pytest.mark.parametrize(("name", "module"), [("a.html", "bs4"), ("a.pdf", "pypdf")])
def test_a_missing_reader_names_the_extra_to_install(file, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DocumentError, match=r"lag-integrations\[documents\]"):
        load_text(file(name, b"x"))


def test_the_table_of_loaders_is_by_lower_case_ends():
    assert set(LOADERS) == {".txt", ".md", ".markdown", ".htm", ".html", ".pdf"}
