"""Real Wikipedia passages encoded on a model trained outside, by the program that measures them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not (DATA / "popqa").is_dir(), reason="the outside material is not beside the project"
    ),
]


def test_every_passage_is_likelier_under_its_own_adapter_than_under_anothers(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    before = set(sys.modules)
    program = importlib.import_module("bench_passages")
    report = program.main(["--count", "4", "--epochs", "12"])
    for name in {"common", "bench_passages"} - before:
        sys.modules.pop(name, None)
    assert report["own_is_lower"] == len(report["losses"]) == 4
    means = {case: mean["score"] for case, mean in report["means"].items()}
    assert means["its own"] < 0.9 * min(means["no adapter"], means["another's"])
