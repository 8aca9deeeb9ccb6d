"""A report of results files: Markdown, PNG, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lag_engine.evaluation.figures import Picture, all_pictures
from lag_engine.evaluation.kilt_records import prediction, write_records
from lag_engine.evaluation.results import Results
from lag_engine.evaluation.score_book import ScoreBook
from lag_engine.evaluation.table import Cell, Table
from lag_engine.evaluation.tables import all_tables

_PLACES = {
    "Scores": ("scores",),
    "Candidates reranked (K)": ("score-against-k",),
    "Library size": ("score-against-library",),
    "Routing accuracy": ("routing-task", "routing-knowledge"),
}
"""The figures below each table."""


def write_report(results: Sequence[Results], folder: str | Path, *, command: str = "") -> Path:
    """Writes report.html, report.md and the figures into a folder; returns the page's path.

    Args:
        results: the first is reported; further ones, with other libraries, add to the comparison
            of library sizes.
        folder: made if need be.
        command: the one that makes the results again; shown.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    books = [ScoreBook(item) for item in results]
    tables, pictures = all_tables(books), all_pictures(books)
    facts = _facts(results[0], command)
    for picture in pictures:
        (target / f"{picture.name}.png").write_bytes(picture.png)
    text = _markdown(facts, tables, pictures)
    (target / "report.md").write_text(text, encoding="utf-8")
    page = target / "report.html"
    page.write_text(_page(facts, tables, pictures), encoding="utf-8")
    return page


def write_predictions(results: Results, folder: str | Path) -> list[Path]:
    """Writes each system's answers as prediction files of KILT, one for each data set.

    What stands before the first "/" of a question's id is its data set's and left out.
    """
    paths = []
    for system, found in results.systems.items():
        records: dict[str, list[dict[str, Any]]] = {}
        for i, answer in found.answers.items():
            pages = [{"wikipedia_id": page} for page in answer["documents"]]
            rows = records.setdefault(results.questions[i].data_set, [])
            rows.append(prediction(i.partition("/")[2] or i, answer["answer"], pages))
        for data_set, rows in records.items():
            path = Path(folder) / _file_name(system.name) / f"{_file_name(data_set)}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_records(path, rows)
            paths.append(path)
    return paths


def to_markdown(table: Table) -> str:
    """Returns a table in Markdown, without its title."""
    lines = [
        _row(table.header),
        "|" + "---|" + "---:|" * (len(table.header) - 1),
        *(_row([_markdown_cell(cell) for cell in row]) for row in table.rows),
    ]
    return "\n".join(lines)


def _markdown(
    facts: Mapping[str, str], tables: Sequence[Table], pictures: Sequence[Picture]
) -> str:
    parts = ["# Evaluation", "\n".join(f"- {name}: {text}" for name, text in facts.items())]
    for table in tables:
        parts += [f"## {table.title}", table.note, to_markdown(table)]
        for picture in _below(table, pictures):
            parts.append(f"![{picture.caption}]({picture.name}.png)")
    return "\n\n".join(parts) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = f"{cell.text} ({cell.note})" if cell.note else cell.text
    return text.replace("|", "\\|")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _facts(results: Results, command: str) -> dict[str, str]:
    """How the results were made, in words."""
    about, session = results.about, results.sessions[-1]
    machine, versions = session["machine"], session["versions"]
    settings = {k: v for k, v in about["settings"].items() if v not in (None, [], "")}
    facts = {
        "Asked": f"{len(results.questions):,} questions of {about['suite']['name']}, "
        f"{about['documents']:,} documents",
        "Model": f"{about['model']['name']}, {about['model']['parameters']:,} parameters, "
        f"{about['model']['dtype']}",
        **_unfinished(results),
        "Settings": ", ".join(f"{k} {v!r}" for k, v in settings.items()),
        "Machine": f"{machine['gpu'] or machine['processor']}, threads: {machine['threads']}, "
        f"cores: {machine['cores']}",
        "Versions": ", ".join(f"{name} {v}" for name, v in versions.items()),
        "Made": f"{session['started']}; sessions: {len(results.sessions)}",
        "Fingerprint": about["fingerprint"],
    }
    return {**facts, "Made again by": command} if command else facts


def _unfinished(results: Results) -> dict[str, str]:
    n, of = len(results.common(results.systems)), len(results.questions)
    told = f"{n:,} of {of:,} questions by all systems; the run is not finished"
    return {"Answered": told} if n < of else {}


def _below(table: Table, pictures: Sequence[Picture]) -> list[Picture]:
    names = _PLACES.get(table.title, ())
    return [picture for picture in pictures if picture.name in names]


def _page(facts: Mapping[str, str], tables: Sequence[Table], pictures: Sequence[Picture]) -> str:
    links = "".join(f'<a href="#{_anchor(t)}">{_escaped(t.title)}</a>' for t in tables)
    sections = "".join(_section(table, _below(table, pictures)) for table in tables)
    told = "".join(f"<dt>{_escaped(k)}</dt><dd>{_escaped(v)}</dd>" for k, v in facts.items())
    asked = _escaped(facts["Asked"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation: {asked}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>Evaluation</h1><p>{asked}. {_escaped(facts['Model'])}.</p>"
        f"<nav>{links}</nav></header><main>{sections}"
        f"<section><h2>How it was made</h2><dl>{told}</dl></section></main></body></html>\n"
    )


def _section(table: Table, pictures: Sequence[Picture]) -> str:
    head = "".join(f"<th>{_escaped(name)}</th>" for name in table.header)
    rows = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in table.rows)
    figures = "".join(
        f'<figure><img alt="{_escaped(picture.caption)}" '
        f'src="data:image/png;base64,{base64.b64encode(picture.png).decode()}">'
        f"<figcaption>{_escaped(picture.caption)}</figcaption></figure>"
        for picture in pictures
    )
    kind = ' class="words"' if table.header[-1] == "verdict" else ""
    return (
        f'<section id="{_anchor(table)}"><h2>{_escaped(table.title)}</h2>'
        f'<p>{_escaped(table.note)}</p><div class="wide"><table{kind}><thead><tr>{head}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
        f'<div class="figures">{figures}</div></section>'
    )


def _html_cell(cell: Cell) -> str:
    note = f"<small>{_escaped(cell.note)}</small>" if cell.note else ""
    mark = f' class="{cell.text.replace(" ", "-")}"' if cell.text in _VERDICTS else ""
    return f"<td{mark}>{_escaped(cell.text)}{note}</td>"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w+-]+", "-", name)


def _anchor(table: Table) -> str:
    return "".join(c if c.isalnum() else "-" for c in table.title.lower())


def _escaped(text: str) -> str:
    return html.escape(text)


_VERDICTS = ("held", "not held", "better", "worse", "undecided")

_STYLE = """
:root{color-scheme:light;--ink:#1f2933;--soft:#5b6770;--line:#dfe4e8;--tint:#f5f7f9}
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:var(--ink)}
header,main{max-width:1080px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:30px;margin:0}
h2{font-size:20px;margin:44px 0 4px}
p{margin:4px 0 12px;color:var(--soft);max-width:76ch}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;border-bottom:1px solid var(--line);padding:8px 0 14px}
nav a{color:#0b6e99;text-decoration:none;font-size:14px}
nav a:hover{text-decoration:underline}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:6px 14px 6px 0;text-align:right;vertical-align:top}
th,td{border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft);vertical-align:bottom}
th:first-child,td:first-child{text-align:left;white-space:nowrap;padding-right:26px}
.words td,.words th{text-align:left}
.words td{white-space:nowrap}
.words td:first-child{white-space:normal}
tbody tr:hover{background:var(--tint)}
td small{display:block;color:var(--soft);font-size:11px;white-space:nowrap}
td.held,td.better{color:#24733a;font-weight:600}
td.not-held,td.worse{color:#a8322d;font-weight:600}
td.undecided{color:#8a6d1a;font-weight:600}
.figures{display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start}
figure{margin:20px 0 0;max-width:640px;flex:1 1 320px}
img{max-width:100%}
figcaption{font-size:13px;color:var(--soft)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 20px;font-size:14px}
dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
main{padding-bottom:64px}
"""
