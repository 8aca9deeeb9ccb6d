"""The GPU's benchmark says where it cannot run, and runs at toy size in Triton's interpreter."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent / "benchmarks"
OURS = {path.stem for path in BENCHMARKS.glob("*.py")}
TOY = ["--shape", "toy", "--adapters", "3", "--store", "float32", "--dtype", "float32"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")


@pytest.fixture
def bench_gpu(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("bench_gpu")
    for name in OURS - before:
        sys.modules.pop(name, None)


def test_without_a_gpu_it_says_so(bench_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device here"):
        bench_gpu.main(TOY)


def test_each_way_is_timed_against_the_base_and_the_floor(bench_gpu, tmp_path, capsys):
    out = tmp_path / "report.json"
    one = ["--retrieve-k", "1", "--batch", "1", "--rounds", "1", "--steps", "1", "--layers", "1"]

    report = bench_gpu.main([*TOY, *one, "--json", str(out)], device="cpu")

    assert [row["variant"] for row in report["results"]] == ["base", "torch", "triton"]
    floor = report["results"][0]["floor_ms"] * 1e-3 * report["bytes_per_second"]
    head, layer = 64 * 32, 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32  # numbers
    adapters = 4 * (3 * 32 + 1 * 8 * 32 + 1 * 8 * 32)  # arrow vectors, a candidate's A*, its B*
    assert floor == pytest.approx(4 * (32 + head + 32 + 2 * (layer + adapters)))
    assert len(json.loads(out.read_text())["results"]) == 3
    assert "x floor" in capsys.readouterr().out
