"""The benchmark of the bound on mapped files runs, at toy size."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
OURS = {path.stem for path in BENCHMARKS.glob("*.py")}
TOY = ["--shape", "toy", "--adapters", "3", "--bounds", "1", "--tokens", "2", "--rounds", "1"]


@pytest.fixture
def program(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("bench_cache")
    for name in OURS - before:
        sys.modules.pop(name, None)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the bound needs Linux")
def test_decoding_is_timed_with_and_without_a_bound(program, tmp_path, capsys):
    out = tmp_path / "report.json"

    report = program.main([*TOY, "--json", str(out)])

    free, bounded = report["results"]
    assert (free["bound_mb"], bounded["bound_mb"]) == (None, 1)
    assert free["of_unbounded"].median == 1
    assert bounded["arrow_bytes"] == 3 * 8 * 32 * 2  # N, modules, D_in, bfloat16
    assert bounded["most_file_bytes"] <= 1_000_000
    assert json.loads(out.read_text())["program"] == "bench_cache"
    assert "x unbounded" in capsys.readouterr().out
