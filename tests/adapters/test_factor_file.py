"""How much of a library's factors is in memory, by what Linux says of its mapped files."""

from __future__ import annotations

import json
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lag_engine.adapters import AdapterLibrary, LoraModule, PeftAdapter, held_pages
from lag_engine.adapters.mapped import Segment
from lag_engine.errors import AdapterNotFoundError, LibraryError

MODULE = "model.layers.0.self_attn.q_proj"
N, RANK, WIDTH = 128, 8, 1024
FACTOR_BYTES = N * RANK * WIDTH * 4
HUGE_PAGE = 1 << 21
"""Linux makes so much of a cached file resident when one byte of it is read."""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists() or not hasattr(mmap, "MADV_DONTNEED"),
    reason="what is resident is read from Linux",
)


@pytest.fixture
def path(tmp_path) -> Path:
    """A library whose rows have 32 KiB in each factor."""
    generator = torch.Generator().manual_seed(0)
    with AdapterLibrary.create(tmp_path / "large", base_model=None) as library:
        library.add_many(
            [
                PeftAdapter(
                    {
                        MODULE: LoraModule(
                            torch.randn(RANK, WIDTH, generator=generator),
                            torch.randn(WIDTH, RANK, generator=generator),
                            1.0,
                        )
                    },
                    source=f"adapter-{i}",
                )
                for i in range(N)
            ],
            progress=False,
        )
    return tmp_path / "large"


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


def is_cached(path: Path, offset: int) -> bool:
    """Whether the system has a page of a file in memory."""
    with path.open("rb", buffering=0) as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT) == 1
        except BlockingIOError:
            return False


def forget(path: Path) -> None:
    """Has the system drop a file's pages that no process holds."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_library_whose_factors_are_copied_answers_the_same_and_holds_none_of_them(path):
    rows = torch.randint(N, (12, 6), generator=torch.Generator().manual_seed(1))
    with (
        AdapterLibrary.open(path, read_only=True) as mapped,
        AdapterLibrary.open(path, read_only=True, map_factors=False) as copied,
    ):
        whole = mapped.stack(MODULE, "task")
        A, B = whole.A(torch.arange(N)), whole.B(torch.arange(N))
        held = resident_bytes(path)
        assert held >= 2 * FACTOR_BYTES
        stack = copied.stack(MODULE, "task")
        for some in rows:
            assert torch.equal(stack.A(some), A[some])
            assert torch.equal(stack.B(some), B[some])
        assert copied.verify().n_adapters == N
        assert resident_bytes(path) - held <= HUGE_PAGE


def test_rows_are_copied_whatever_their_order_and_rank(path, make_adapter):
    with AdapterLibrary.open(path) as library:
        library.add(make_adapter(1000, modules=[MODULE], shape=(WIDTH, WIDTH), rank=RANK + 3))
        rows = torch.tensor([[N, 3], [3, 0]])
        expected = library.stack(MODULE, "task").A(rows), library.stack(MODULE, "task").B(rows)
    with AdapterLibrary.open(path, read_only=True, map_factors=False) as copied:
        stack = copied.stack(MODULE, "task")
        assert torch.equal(stack.A(rows), expected[0])
        assert torch.equal(stack.B(rows), expected[1])
        assert stack.A(torch.tensor([], dtype=torch.long)).shape == (0, RANK + 3, WIDTH)


def test_factors_may_be_read_in_place_only_where_they_are_mapped(path):
    for is_mapped in (True, False):
        with AdapterLibrary.open(path, read_only=True, map_factors=is_mapped) as library:
            assert (library.stack(MODULE, "task").places is not None) is is_mapped


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="asks the system what it has in memory")
def test_what_is_prefetched_is_in_memory_before_it_is_read(path):
    [file] = (path / "segments").iterdir()
    with AdapterLibrary.open(path, read_only=True) as library:
        forget(file)
        row = N // 2
        of_row = file.stat().st_size - (N - row) * RANK * WIDTH * 4  # B's are the last of the file
        if is_cached(file, of_row):
            pytest.skip("this file system keeps what it is asked to forget")
        library.snapshot().prefetch([f"adapter-{row}"])
        until = time.monotonic() + 5
        while not is_cached(file, of_row) and time.monotonic() < until:
            time.sleep(0.01)
        assert is_cached(file, of_row)
        with pytest.raises(AdapterNotFoundError):
            library.snapshot().prefetch(["adapter-none"])


def test_a_segment_may_be_larger_than_memory(tmp_path):
    n = 1 << 30
    header = {
        f"{MODULE}::A": {"dtype": "F32", "shape": [n, 1, 64], "data_offsets": [0, n * 256]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % mmap.PAGESIZE)
    file = tmp_path / "0001.safetensors"
    with file.open("wb") as written:
        written.write(len(text).to_bytes(8, "little") + text)
        written.truncate(8 + len(text) + n * 256)
    segment = Segment(file)
    assert segment._tensor(MODULE, "A")[-1].tolist() == [[0.0] * 64]


BOUND = FACTOR_BYTES // 4
ROUNDING = 1 << 18
"""Linux counts pages for each processor, and sums up now and then."""


def test_what_is_held_stays_within_its_bound_and_reads_the_same(path):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2)).split(8)
    with (
        AdapterLibrary.open(path, read_only=True) as free,
        AdapterLibrary.open(path, read_only=True, map_factors=False) as copied,
    ):
        stack = copied.stack(MODULE, "task")
        expected = [(stack.A(some), stack.B(some)) for some in order]
        free.stack(MODULE, "task").A(torch.arange(N))
        assert resident_bytes(path) >= FACTOR_BYTES
    del free, copied, stack
    with AdapterLibrary.open(path, read_only=True, factor_cache_bytes=BOUND) as bounded:
        stack, held = bounded.stack(MODULE, "task"), resident_bytes(path)
        for some, (A, B) in zip(order, expected, strict=True):
            assert torch.equal(stack.A(some), A)
            assert torch.equal(stack.B(some), B)
            assert resident_bytes(path) - held <= BOUND + ROUNDING


def test_a_bound_below_one_page_keeps_nothing(path):
    with AdapterLibrary.open(path, read_only=True, factor_cache_bytes=1) as bounded:
        stack, held = bounded.stack(MODULE, "task"), resident_bytes(path)
        stack.A(torch.arange(N))
        assert resident_bytes(path) - held <= ROUNDING
        assert bounded.verify().n_adapters == N


def test_threads_share_a_bound(path):
    with AdapterLibrary.open(path, read_only=True, factor_cache_bytes=1 << 16) as bounded:
        stack = bounded.stack(MODULE, "task")
        expected = stack.A(torch.arange(N))

        def read(seed: int) -> bool:
            generator = torch.Generator().manual_seed(seed)
            drawn = (torch.randint(N, (4,), generator=generator) for _ in range(100))
            return all(torch.equal(stack.A(rows), expected[rows]) for rows in drawn)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(4)))


@pytest.mark.parametrize("bound", [0, -1, 1.5, "1GB", True])
def test_a_bound_that_is_no_number_of_bytes_is_refused(path, bound):
    with pytest.raises(LibraryError, match="factor_cache_bytes") as caught:
        AdapterLibrary.open(path, factor_cache_bytes=bound)
    assert repr(bound) in caught.value.found
    assert caught.value.action
    AdapterLibrary.open(path).close()  # the writer's lock was not taken


def test_a_system_that_does_not_tell_is_named(path, monkeypatch):
    monkeypatch.setattr(held_pages, "_STATM", path / "none")
    with pytest.raises(LibraryError, match="Expected Linux"):
        AdapterLibrary.open(path, read_only=True, factor_cache_bytes=1)
