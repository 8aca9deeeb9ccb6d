"""The benchmark of adapters that share lora_A runs, at toy size."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

OURS = {path.stem for path in (Path(__file__).parent / "benchmarks").glob("*.py")}
TOY = ["--shape", "toy", "--rounds", "1", "--prompt", "12", "--tokens", "2"]


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module("bench_shared_lora_a")
    for name in OURS - before:
        sys.modules.pop(name, None)


def test_both_libraries_are_timed_and_sharing_halves_an_adapter(program, tmp_path):
    report = program.main([*TOY, "--adapters", "3,5", "--json", str(tmp_path / "report.json")])
    rows = report["results"]
    assert {(row["adapters"], row["work"]) for row in rows} == {
        (n, work) for n in (3, 5) for work in ("decode", "prefill")
    }
    sizes = {row["lora_A"]: row["bytes_per_adapter"] for row in rows}
    assert sizes["shared"] < 0.7 * sizes["own"]
    assert (tmp_path / "report.json").stat().st_size > 0
