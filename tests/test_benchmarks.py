"""The benchmark programs run, at toy size; their numbers are nobody's to assert."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
TOY = ["--shape", "toy", "--adapters", "3", "--store", "float32"]
OURS = {path.stem for path in BENCHMARKS.glob("*.py")}


@pytest.fixture
def program(monkeypatch):
    """Imports a program as Python does that runs it: its folder is where `common` is found."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module
    for name in OURS - before:
        sys.modules.pop(name, None)


def test_a_library_is_filled_and_opened(program, tmp_path, capsys):
    out = tmp_path / "report.json"

    report = program("bench_library").main([*TOY, "--open", "2", "--json", str(out)])

    filled, only_opened = report["results"]
    assert filled["arrow_bytes"] == 3 * 8 * 32 * 4  # N, modules, D_in, float32
    assert filled["disk_bytes"] > filled["arrow_bytes"]
    assert filled["per_second"] > 0
    assert (only_opened["adapters"], only_opened["per_second"]) == (2, None)
    assert json.loads(out.read_text())["results"] == [filled, only_opened]
    assert "per s" in capsys.readouterr().out


def test_requests_at_once_are_timed_against_one_after_another(program, tmp_path, capsys):
    out = tmp_path / "report.json"

    report = program("bench_concurrent").main(
        ["--requests", "6", "--rounds", "1", "--json", str(out)]
    )

    assert report["equal"] == 6
    assert report["survivors_equal"]
    assert report["steps_after_cancel"] <= 1
    assert json.loads(out.read_text())["cancelled"] == report["cancelled"]
    assert "x " in capsys.readouterr().out


def test_factors_are_read_cold_and_warm_in_each_way(program, tmp_path, capsys):
    out = tmp_path / "report.json"

    report = program("bench_memory").main(
        [*TOY, "--retrieve-k", "1", "--tokens", "2", "--json", str(out)]
    )

    assert [row["way"] for row in report["results"]] == ["in place", "mapped", "copied"]
    assert all(row["cold_ms"].median > 0 < row["warm_ms"].median for row in report["results"])
    assert json.loads(out.read_text())["targets"]["cold_ms"] == 60
    assert "cold ms/token" in capsys.readouterr().out


def test_an_index_that_reads_more_finds_more(program, tmp_path, capsys):
    out = tmp_path / "report.json"

    report = program("bench_index").main(
        ["--modules", "1", "--adapters", "80", "--questions", "3", "--json", str(out)]
    )

    lists = [row for row in report["results"] if row["index"].startswith("lists")]
    assert {row["library"] for row in lists} == {"trained", "mixed pairs (synthetic)"}
    for few, many in itertools.pairwise(lists):
        assert few["adapters"] != many["adapters"] or few["share"] < many["share"]
    assert all(0 <= row["recall"] <= 1 for row in report["results"])
    trained = {row["index"]: row for row in report["results"] if row["library"] == "trained"}
    exact, few, many = (trained[name] for name in ("int8, exact", "4 bits, 1 sd", "4 bits, 2 sd"))
    assert exact["recall"] == 1
    assert min(many["recall"], trained.get("4 bits, operator", many)["recall"]) >= 0.999
    assert few["share"] < many["share"]
    assert json.loads(out.read_text())["settings"]["questions"] == 3
    assert "recall" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("bench", "words", "told"),
    [
        ("bench_routing", ["--work", "nonsense"], "'decode+prefill+batch of 8, one plan+batch"),
        ("bench_routing", ["--quick", "--work", ""], "found ''"),
        ("bench_shared_lora_a", ["--work", "batch of 8, eight plans"], "'decode+prefill+batch"),
        ("bench_routing", ["--adapters", "0"], "expected whole numbers above zero, such as 8,64"),
        ("bench_routing", ["--rounds", "-1"], "--rounds: expected a whole number above zero"),
        ("bench_routing", ["--peers", "-1"], "--peers: expected a whole number"),
        ("bench_gpu", ["--shape", "toy", "--layers", "3"], "shape toy has 2; found 3"),
        ("bench_index", ["--quick", "--adapters", "19"], "20 adapters are retrieved"),
        ("bench_memory", ["--quick", "--adapters", "8"], "--retrieve-k 20"),
        ("bench_cache", ["--tokens", "0"], "--tokens: expected a whole number above zero"),
        ("bench_concurrent", ["--requests", "0"], "--requests: expected a whole number above"),
        ("bench_passages", ["--count", "x"], "--count: expected a whole number above zero"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(program, capsys, bench, words, told):
    with pytest.raises(SystemExit, match="2"):
        program(bench)._options(words)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, 2])
def test_what_is_given_beside_quick_is_what_is_measured(program, place):
    words = ["--rounds", "7"]
    words.insert(place, "--quick")
    options = program("bench_routing")._options(words)
    assert (options.quick, options.shape, options.rounds, options.prompt) == (True, "small", 7, 64)


def test_the_growth_exponent_is_the_power_of_a_power_law(program):
    growth_exponent = program("common").growth_exponent

    assert growth_exponent([10, 100, 1000], [3 * n**1.5 for n in (10, 100, 1000)]) == pytest.approx(
        1.5
    )
    assert math.isnan(growth_exponent([10], [1.0]))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_stacked_training_is_timed_against_peft_and_equal_to_it(program, tmp_path):
    out = tmp_path / "report.json"
    sizes = ["--counts", "1,2", "--peft", "2", "--rounds", "1"]

    report = program("bench_encode").main([*sizes, "--json", str(out)])

    rows = {row["variant"]: row for row in report["results"]}
    assert list(rows) == ["PEFT", "G=1", "G=2"]
    assert rows["PEFT"]["ratio"].median == 1
    assert all(row["per_second"].median > 0 for row in rows.values())
    assert all(rows[name]["difference"] < 1e-2 for name in ("G=1", "G=2"))
    assert [row["variant"] for row in json.loads(out.read_text())["results"]] == list(rows)


def test_the_page_of_results_says_what_their_files_say(program):
    table = program("results_table")
    page = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    notes = (BENCHMARKS / "notes.md").read_text(encoding="utf-8")
    assert page == table.render(table.load(BENCHMARKS / "results"), notes)


def test_a_target_is_met_by_what_is_at_least_as_good(program):
    targets = program("targets")
    below, above = targets.TARGETS[0], targets.TARGETS[-1]
    assert [below.is_met(below.limit + more) for more in (0, 0.01)] == [True, False]
    assert [above.is_met(above.limit - less) for less in (0, 0.01)] == [True, False]
