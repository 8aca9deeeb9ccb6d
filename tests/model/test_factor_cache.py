"""An engine over a library of which little may stay in memory answers as over any other."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lag_engine.adapters import AdapterLibrary, LoraModule, PeftAdapter
from lag_engine.errors import LibraryError
from lag_engine.model.bank import ResidentStack
from lag_engine.model.engine import LAGEngine
from lag_engine.model.kernels import CPP
from lag_engine.routing import LAG, REFERENCE
from tests.model.conftest import build_text_model
from tests.model.placed import CPU, inputs, needs_compiler

PROMPTS = ["once", "upon a time", "there"]
PLANS = ["lag", "base", "arrow"]
MODULE = "linear"
N, RANK, WIDTH = 160, 4, 512
STEP_BYTES = 16 * RANK * WIDTH * 4
"""Of the factors that one call reads."""

needs_linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux")


def answers(engine: LAGEngine) -> list[tuple[int, ...]]:
    found = engine.generate_batch(PROMPTS, plans=PLANS, max_new_tokens=6)
    return [one.token_ids for one in found]


@pytest.fixture
def path(text_library) -> Path:
    """A library that nobody has open."""
    text_library.close()
    return text_library.path


@needs_linux
def test_answers_do_not_depend_on_the_bound(path, byte_tokenizer):
    found = []
    for bound in (None, 1):
        with LAGEngine(
            build_text_model(), byte_tokenizer, path, factor_cache_bytes=bound
        ) as engine:
            found.append(answers(engine))
    assert found[0] == found[1]


@needs_linux
def test_two_engines_share_a_library_and_its_bound(path, byte_tokenizer):
    with AdapterLibrary.open(path, read_only=True, factor_cache_bytes=1) as library:
        with (
            LAGEngine(build_text_model(), byte_tokenizer, library) as first,
            LAGEngine(build_text_model(), byte_tokenizer, library) as second,
            ThreadPoolExecutor(2) as pool,
        ):
            found = list(pool.map(answers, (first, second) * 3))
        with LAGEngine(build_text_model(), byte_tokenizer, path) as engine:
            assert found == [answers(engine)] * 6


def test_a_closed_engine_lets_go_of_what_it_read(path, byte_tokenizer):
    engine = LAGEngine(build_text_model(), byte_tokenizer, path)
    answers(engine)
    read = weakref.ref(engine.library.snapshot())
    assert read() is not None
    engine.close()
    gc.collect()
    assert read() is None


def test_a_bound_that_is_no_number_of_bytes_is_refused(path, byte_tokenizer):
    with pytest.raises(LibraryError, match="factor_cache_bytes"):
        LAGEngine(build_text_model(), byte_tokenizer, path, factor_cache_bytes=-1)


@pytest.fixture
def wide_path(tmp_path) -> Path:
    """Adapters with 8 KiB in each factor."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> LoraModule:
        lora_A = torch.randn(RANK, WIDTH, generator=generator)
        return LoraModule(lora_A, torch.randn(WIDTH, RANK, generator=generator), 1.0)

    with AdapterLibrary.create(tmp_path / "wide", base_model=None) as library:
        adapters = [PeftAdapter({MODULE: draw()}, source=f"adapter-{i}") for i in range(N)]
        library.add_many(adapters, progress=False)
    return tmp_path / "wide"


def resident_bytes(folder: Path) -> int:
    """What this process holds of the files in a folder."""
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):
            is_ours = str(folder) in line
        elif key == "Rss:" and is_ours:
            total += int(values[0]) * 1024
    return total


@needs_compiler
@needs_linux
@pytest.mark.parametrize("n_tokens", [1, 8])
def test_the_operator_reads_in_place_what_was_let_go(wide_path, n_tokens):
    router = LAG(16)
    with (
        AdapterLibrary.open(wide_path, read_only=True, map_factors=False) as copied,
        AdapterLibrary.open(wide_path, read_only=True, factor_cache_bytes=STEP_BYTES) as bounded,
    ):
        expected = ResidentStack(copied.stack(MODULE, "task"), CPU)
        stack, held = ResidentStack(bounded.stack(MODULE, "task"), CPU), resident_bytes(wide_path)
        assert stack.compiled.struct.is_announced
        for seed in range(20):
            x = inputs(n_tokens, WIDTH, seed=seed)
            found = CPP.fuse(router, stack, None).update(x)
            choice = router.route(x, expected, form=REFERENCE)
            total = REFERENCE.apply(choice.z, choice.weights, choice.rows, expected)
            assert torch.equal(found.rows, choice.rows)
            torch.testing.assert_close(found.total, total, rtol=1e-4, atol=1e-4)
            assert resident_bytes(wide_path) - held <= 2 * STEP_BYTES


@needs_compiler
@needs_linux
def test_arrow_vectors_are_let_go_once_they_are_compact(wide_path):
    with AdapterLibrary.open(wide_path, read_only=True) as library:
        stack = library.stack(MODULE, "task")
        stack.arrow.sum()
        assert resident_bytes(wide_path) >= N * WIDTH * 4
        compiled = ResidentStack(stack, CPU).compiled
        assert not compiled.struct.is_announced
        compiled.prepare(1)
        assert resident_bytes(wide_path) < N * WIDTH * 4
