"""Writes RESULTS.md: every number asked for beside what the files of results/ say, and notes.md.

`results_table.py` prints it, `results_table.py --write` writes it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pages import markdown, met, spread_text
from targets import TARGETS, Target
from threads_table import has_threads, threads_sections

HERE = Path(__file__).parent
RESULTS, NOTES, PAGE = HERE / "results", HERE / "notes.md", HERE / "RESULTS.md"
RECALL = 0.999
"""Of the exact winner, where plans may miss an adapter."""

MANY = 10_000
"""Adapters that the rows about large libraries mean."""

Report = Mapping[str, Any]


class Line(NamedTuple):
    """A row of the first table."""

    what: str
    target: str
    measured: str
    is_met: bool
    file: str


def main(argv: Sequence[str]) -> str:
    """Prints or writes the page, and returns it."""
    page = render(load(RESULTS), NOTES.read_text(encoding="utf-8"))
    if "--write" in argv:
        PAGE.write_text(page, encoding="utf-8")
    else:
        sys.stdout.write(page)
    return page


def load(folder: Path) -> dict[str, Report]:
    """Returns the reports of a folder by name of file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def render(reports: Mapping[str, Report], notes: str) -> str:
    """Returns the page in Markdown."""
    parts = [
        _head(next(iter(reports.values()))["machine"]),
        markdown(
            ("", "target", "measured", "", "file"),
            [(*line[:3], met(line.is_met), line.file) for line in _lines(reports)],
        ),
        *threads_sections(reports),
        *_sweeps(reports),
        notes.strip(),
        "## Commands\n\n" + "\n".join(_commands(reports)),
    ]
    return "\n\n".join(parts) + "\n"


def _head(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "peft"))
    return (
        "# What routing costs, measured\n\nWritten by `results_table.py` from the files of "
        f"`results/`, and `notes.md`.\n\n{machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} compute thread; Python {machine['python']}, {versions}. CPU time of "
        "the thread; base and variants take turns in one process; ratio of medians (quartiles of "
        "the rounds). Random adapters, rank 8, K = 20, library in bfloat16, unless said."
    )


def _lines(reports: Mapping[str, Report]) -> Iterator[Line]:
    rows = list(_routing_rows(reports))
    for target in TARGETS:
        found = [(file, row) for file, row in rows if target.is_of(row)]
        if found:
            file, row = max(found, key=lambda pair: (pair[1]["layers"], pair[1]["rounds"]))
            yield _routing_line(target, file, row)
    for file, report in reports.items():
        yield from _LINES.get(report["program"], lambda *_: ())(file, report)


def _routing_rows(reports: Mapping[str, Report]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for file, report in reports.items():
        if report["program"] == "bench_routing" and not has_threads(report):
            yield from ((file, row) for row in report["results"])


def _routing_line(target: Target, file: str, row: Mapping[str, Any]) -> Line:
    spread = target.measured(row)
    what = f"faster than {target.peer}: {target.what}" if target.peer else target.what
    measured = spread_text(spread, 1 if target.peer else 3)
    return Line(what, target.text, measured, target.is_met(spread["median"]), file)


def _growth_lines(file: str, report: Report) -> Iterator[Line]:
    sizes = {row["adapters"] for row in report["results"]}
    found = report["growth_exponents"].get("decode, lag")
    if found is not None and max(sizes) >= MANY:
        shape, dtype = (report["settings"][key] for key in ("shape", "dtype"))
        what = f"exponent of added decode time, N = {min(sizes)} to {max(sizes):,}, {shape} {dtype}"
        yield Line(what, "<= 1.0", f"{found:.2f}", found <= 1.0, file)


def _library_lines(file: str, report: Report) -> Iterator[Line]:
    targets, shape = report["targets"], report["settings"]["shape"]
    added = max((r for r in report["results"] if r["add_s"]), key=lambda row: row["adapters"])
    rate, exponent = added["per_second"], report["growth_exponent"]
    what = f"PEFT checkpoints read, converted and added a second, {shape}"
    yield Line(what, f">= {targets['per_second']}", f"{rate:.0f}", rate >= 100, file)
    steepest = targets["exponent"]
    yield Line("its exponent in N", f"<= {steepest}", f"{exponent:.2f}", exponent <= steepest, file)
    for row in report["results"]:
        if row["adapters"] >= MANY:
            yield from _opening_lines(file, row, targets)


def _opening_lines(file: str, row: Mapping[str, Any], targets: Mapping[str, Any]) -> Iterator[Line]:
    n, took, limit = f"{row['adapters']:,} adapters", row["open_first_ms"], targets["open_ms"]
    yield Line(f"open a library of {n}", f"<= {limit} ms", f"{took:.0f} ms", took <= limit, file)
    over, most = row["resident_bytes"] - row["arrow_bytes"], targets["resident_bytes"]
    yield Line(
        f"resident memory above the arrow vectors, {n}",
        f"<= {most / 1e6:.0f} MB",
        f"{over / 1e6:.0f} MB",
        over <= most,
        file,
    )


def _memory_lines(file: str, report: Report) -> Iterator[Line]:
    limit, shape = report["targets"]["cold_ms"], report["settings"]["shape"]
    for row in report["results"]:
        cold = row["cold_ms"]
        yield Line(
            f"cold factors, ms a token, read {row['way']}, N = {row['adapters']:,}, {shape}",
            f"<= {limit}",
            spread_text(cold, 1),
            cold["median"] <= limit,
            file,
        )


def _index_lines(file: str, report: Report) -> Iterator[Line]:
    names = {"trained": "trained adapters", "mixed pairs (synthetic)": "mixtures of their pairs"}
    for library, name in names.items():
        rows = [row for row in report["results"] if row["library"] == library]
        found = [row for row in rows if row["index"] == "4 bits, operator"]
        exact = {row["module"]: row["share"] for row in rows if row["index"] == "int8, exact"}
        least = min(row["recall"] for row in found)
        read = max(row["share"] / exact[row["module"]] for row in found)
        yield Line(
            f"approximate: recall of the exact winner, {rows[0]['adapters']:,} {name}, the worst "
            f"module (reads {read:.2f} of the exact scan)",
            f">= {RECALL}",
            f"{least:.4f}",
            least >= RECALL,
            file,
        )


def _cache_lines(file: str, report: Report) -> Iterator[Line]:
    most = report["targets"]["resident_bytes"]
    for row in report["results"]:
        if row["bound_mb"] is None:
            continue
        over = row["decoded_bytes"] - row["arrow_bytes"] - row["bound_mb"] * 10**6
        yield Line(
            f"resident memory above arrow vectors and a cache of {row['bound_mb']:,} MB, "
            f"{row['adapters']:,} adapters, after decoding (x {row['of_unbounded']['median']:.2f} "
            "of the time without a bound)",
            f"<= {most / 1e6:.0f} MB",
            f"{over / 1e6:.0f} MB",
            over <= most,
            file,
        )


_LINES = {
    "bench_routing": _growth_lines,
    "bench_library": _library_lines,
    "bench_memory": _memory_lines,
    "bench_index": _index_lines,
    "bench_cache": _cache_lines,
}


def _sweeps(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yields a table for every file in which N, K or R varies."""
    for file, report in reports.items():
        is_swept = report["program"] == "bench_routing" and not has_threads(report)
        rows = report["results"] if is_swept else []
        for key, letter in (("adapters", "N"), ("retrieve_k", "K"), ("rank", "R")):
            values = sorted({row[key] for row in rows})
            if len(values) > 1:
                yield _sweep(file, report, key, letter, values)


def _sweep(file: str, report: Report, key: str, letter: str, values: Sequence[int]) -> str:
    rows, first = report["results"], report["results"][0]
    fixed = {"N": "adapters", "K": "retrieve_k", "R": "rank"}
    said = ", ".join(f"{n} = {first[of]:,}" for n, of in fixed.items() if of != key)
    names = dict.fromkeys((r["work"], r["variant"]) for r in rows if r["variant"] != "base")
    cells = {(r[key], r["work"], r["variant"]): spread_text(r["ratio"], 2) for r in rows}
    table = markdown(
        (f"x base, {letter} =", *(f"{value:,}" for value in values)),
        [
            (f"{work}, {variant}", *(cells.get((v, work, variant), "") for v in values))
            for work, variant in names
        ],
    )
    title = f"## {letter}: shape {first['shape']}, {first['dtype']}, {said} (`{file}.json`)"
    exponents = [f"{k} {v:.2f}" for k, v in report["growth_exponents"].items() if v is not None]
    grown = f"\n\nExponents of the added time: {'; '.join(exponents)}." if letter == "N" else ""
    plot = RESULTS / f"{file}.png"
    shown = f"\n\n![Added time over N](results/{plot.name})" if plot.exists() else ""
    return f"{title}\n\n{table}{grown}{shown}"


def _commands(reports: Mapping[str, Report]) -> Iterator[str]:
    for file, report in reports.items():
        load = "/".join(map(str, report["machine"]["load"]))
        yield f"- `{file}.json`, load {load}: `{report['command']}`"


if __name__ == "__main__":
    main(sys.argv[1:])
