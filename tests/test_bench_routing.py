"""The benchmark of routing runs, at toy size, and its peers compute what they are called."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module
    for name in {"common", "peers", "bench_routing"} - before:
        sys.modules.pop(name, None)


def test_every_work_is_timed_for_each_variant(program, tmp_path):
    out = tmp_path / "report.json"
    report = program("bench_routing").main(["--quick", "--json", str(out)])
    rows = report["results"]
    assert {row["variant"] for row in rows} == {"base", "lag", "PEFT Arrow", "mttl-style Arrow"}
    assert all(row["ms"].median > 0 for row in rows)
    assert len(json.loads(out.read_text())["results"]) == len(rows)


@torch.no_grad()
def test_peft_with_its_factors_put_in_computes_our_arrow(program):
    common, peers = program("common"), program("peers")
    from lag_engine.adapters import to_spectral

    model = common.build_model("toy")
    adapters = [common.random_adapter(model, i) for i in range(5)]
    name = next(iter(adapters[0].modules))
    layer = peers.peft_arrow(model, adapters, 2).get_submodule(name)
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    parts = [adapter.modules[name] for adapter in adapters]
    arrows = torch.stack([to_spectral(*part).A[0].float() for part in parts])
    top = (x[0] @ arrows.T).abs().topk(2, dim=-1)
    expected = model.get_submodule(name)(x)
    for t in range(3):
        for weight, row in zip(torch.softmax(top.values[t], -1), top.indices[t], strict=True):
            part = parts[row]
            expected[0, t] += weight * part.scaling * part.lora_B @ (part.lora_A @ x[0, t])
    torch.testing.assert_close(layer(x), expected, rtol=1e-3, atol=1e-4)
