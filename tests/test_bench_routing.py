"""The benchmark of routing runs, at toy size, and its peers compute what they are called."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


OURS = {path.stem for path in (Path(__file__).parent / "benchmarks").glob("*.py")}
TOY = ["--shape", "toy", "--rounds", "2", "--prompt", "12", "--tokens", "2"]


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "benchmarks")
    before = set(sys.modules)
    yield importlib.import_module
    for name in OURS - before:
        sys.modules.pop(name, None)


def test_every_work_is_timed_for_each_variant(program, tmp_path):
    out = tmp_path / "report.json"
    report = program("bench_routing").main(
        [*TOY, "--adapters", "3", "--peers", "3", "--approximate", "--json", str(out)]
    )
    rows = report["results"]
    variants = {"base", "lag", "lag, approximate", "PEFT Arrow", "mttl-style Arrow"}
    assert {row["variant"] for row in rows} == variants
    assert {row["work"] for row in rows} == set(program("works").WORKS)
    assert all(row["ms"].median > 0 for row in rows)
    assert len(json.loads(out.read_text())["results"]) == len(rows)


def test_sizes_candidates_and_ranks_are_swept_and_the_growth_is_drawn(program, tmp_path):
    plot = tmp_path / "growth.png"
    sweep = ["--adapters", "2,5", "--retrieve-k", "1,2", "--rank", "2,4", "--modules", "all"]
    report = program("bench_routing").main([*TOY, *sweep, "--work", "decode", "--plot", str(plot)])
    found = {(row["adapters"], row["retrieve_k"], row["rank"]) for row in report["results"]}
    assert found == {(n, k, rank) for n in (2, 5) for k in (1, 2) for rank in (2, 4)}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_one_thread_and_two_are_timed_in_one_run_and_stand_side_by_side_on_the_page(program):
    work = ["--work", "decode", "--threads", "1,2", "--rounds", "1"]
    report = program("bench_routing").main([*TOY, "--adapters", "3", *work])
    assert [(row["threads"], row["variant"]) for row in report["results"]] == [
        (threads, variant) for threads in (1, 2) for variant in ("base", "lag")
    ]
    target = program("targets").Target(1.5, "decode", "S", "float32")
    rows = [
        {**row, "shape": "S", "adapters": 1000, "retrieve_k": 20}
        | {"ms": {"median": ms}, "ratio": {"median": ratio, "low": ratio, "high": ratio}}
        for row, ms, ratio in zip(report["results"], (4, 6, 2, 2.5), (1, 1.5, 1, 1.25), strict=True)
    ]
    line = next(program("threads_table")._lines(target, "file", rows))
    assert line[2:] == (
        "1.500 (1.500-1.500)",
        "1.250 (1.250-1.250)",
        "met",
        "2.00 x",
        "2.40 x",
        "file",
    )


@torch.no_grad()
def test_a_part_routes_over_the_first_adapters_and_repeats_the_factors_of_few_layers(
    program, tmp_path
):
    libraries = program("libraries")
    recipe = libraries.Recipe("toy", 4, layers=1, store="float32")
    with libraries.opened(recipe, tmp_path) as library:
        part = libraries.Part(library, recipe, 3)
        assert set(part.modules()) == {
            f"model.layers.{layer}.self_attn.{name}"
            for layer in (0, 1)
            for name in libraries.MODULES["attention"]
        }
        first, second = (part.stack(f"model.layers.{i}.self_attn.q_proj") for i in (0, 1))
        assert first is second
        assert first.names == ("adapter-0", "adapter-1", "adapter-2")
        whole = library.stack("model.layers.0.self_attn.q_proj", "task")
        assert torch.equal(first.arrow, whole.arrow[:3])
        assert torch.equal(first.places.A, whole.places.A[:3])
    assert [path.name for path in tmp_path.iterdir()] == [recipe.name]


@torch.no_grad()
def test_peft_with_its_factors_put_in_computes_our_arrow(program):
    libraries = program("libraries")
    model = program("common").build_model("toy")
    recipe = libraries.Recipe("toy", 5, store="float32")
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(0))
    with libraries.opened(recipe, None) as library:
        part = libraries.Part(library, recipe, 5)
        name = next(iter(part.modules()))
        stack = part.stack(name)
        found = program("peers").peft_arrow(model, part, 2).get_submodule(name)(x)
        top = (x[0] @ stack.arrow.T).abs().topk(2, dim=-1)
        A, B = stack.A(top.indices), stack.B(top.indices)  # (T, 2, R, D)
    weights = torch.softmax(top.values, -1)
    mixed = torch.einsum("tk,tkro,tkri,ti->to", weights, B, A, x[0])
    torch.testing.assert_close(found[0], model.get_submodule(name)(x)[0] + mixed)


def test_mttl_is_asked_for_where_it_is_to_run_and_not_given(program, tmp_path, capsys):
    bench = program("bench_routing")
    with pytest.raises(SystemExit):
        bench.main([*TOY, "--adapters", "3", "--peers", "3", "--peer", "mttl Arrow"])
    assert "clone github.com/microsoft/mttl" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main([*TOY, "--adapters", "3", "--peers", "3", "--mttl", str(tmp_path)])
    assert "no folder mttl/models" in capsys.readouterr().err


def test_a_package_that_is_not_there_is_stood_in_for_by_empty_modules(program):
    finder = program("mttl_peer")._StandIns(["absent"])
    assert finder.find_spec("present") is None
    part = importlib.util.module_from_spec(finder.find_spec("absent.part"))
    assert isinstance(part.Anything, type)
    assert not hasattr(part, "__path_of_a_real_one__")
