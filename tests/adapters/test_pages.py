"""How much of a library's factors is in memory, by what Linux says of its mapped files."""

from __future__ import annotations

import json
import mmap
import os
import time
from pathlib import Path

import pytest
import torch

from lag_engine.adapters import AdapterLibrary, LoraModule, PeftAdapter
from lag_engine.adapters.mapped import Segment
from lag_engine.adapters.pages import WINDOW, FactorPages
from lag_engine.errors import AdapterNotFoundError, LibraryError

MODULE = "model.layers.0.self_attn.q_proj"
N, RANK, WIDTH = 48, 8, 1024
FACTOR_BYTES = N * RANK * WIDTH * 4
LIMIT = 8 * WINDOW

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps").exists() or not hasattr(mmap, "MADV_DONTNEED"),
    reason="what is resident is read from Linux",
)


@pytest.fixture
def path(tmp_path) -> Path:
    """A library whose rows have 32 KiB in each factor: half a window."""
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


def test_a_limited_library_answers_the_same_and_stays_within_its_limit(path):
    rows = torch.randint(N, (12, 6), generator=torch.Generator().manual_seed(1))
    with (
        AdapterLibrary.open(path, read_only=True) as whole,
        AdapterLibrary.open(path, read_only=True, max_factor_bytes=LIMIT) as limited,
    ):
        expected = [
            (whole.stack(MODULE, "task").A(some), whole.stack(MODULE, "task").B(some))
            for some in rows
        ]
        held = resident_bytes(path)
        assert held > FACTOR_BYTES
        stack = limited.stack(MODULE, "task")
        beside = stack.arrow.nbytes + stack.singular.nbytes + 2 * WINDOW
        for some, (A, B) in zip(rows, expected, strict=True):
            assert torch.equal(stack.A(some), A)
            assert torch.equal(stack.B(some), B)
            assert resident_bytes(path) - held <= LIMIT + beside


def test_one_product_may_read_more_than_the_limit(path):
    with AdapterLibrary.open(path, read_only=True, max_factor_bytes=1) as library:
        stack = library.stack(MODULE, "task")
        everything = torch.arange(N)
        assert torch.equal(stack.A(everything)[:, 0], stack.arrow)
        stack.B(torch.tensor([0]))
        assert resident_bytes(path) < FACTOR_BYTES


def test_verifying_stays_within_the_limit_too(path):
    with AdapterLibrary.open(path, read_only=True, max_factor_bytes=LIMIT) as library:
        assert library.verify().n_adapters == N
        library.stack(MODULE, "task").A(torch.tensor([0]))
        assert resident_bytes(path) < FACTOR_BYTES


def test_code_that_reads_in_place_is_given_addresses_only_without_a_limit(path):
    for limit, is_given in ((None, True), (LIMIT, False)):
        with AdapterLibrary.open(path, read_only=True, max_factor_bytes=limit) as library:
            assert (library.stack(MODULE, "task").places is not None) is is_given


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="asks the system what it has in memory")
def test_what_is_prefetched_is_in_memory_before_it_is_read(path):
    [file] = (path / "segments").iterdir()
    with AdapterLibrary.open(path, read_only=True, max_factor_bytes=LIMIT) as library:
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
    segment = Segment(file, FactorPages())
    assert segment._tensor(MODULE, "A")[-1].tolist() == [[0.0] * 64]


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_no_room_is_refused(path, limit):
    with pytest.raises(LibraryError, match="positive number of bytes"):
        AdapterLibrary.open(path, max_factor_bytes=limit)
    AdapterLibrary.open(path).close()
