"""Readers beside a writer, in other processes and threads; and what opening costs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from threading import Thread

import torch

from lag_engine.adapters import AdapterLibrary, AdapterSource

MODULE = "model.layers.0.self_attn.q_proj"


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


def test_a_reader_notices_changes_through_the_generation(library, make_adapter):
    with AdapterLibrary.open(library.path, read_only=True) as reader:
        assert len(reader) == 0
        generation = reader.generation
        library.add(make_adapter(0))
        assert reader.generation == generation + 1
        assert reader.stack(MODULE, "task").names == ("adapter-0",)


def test_a_snapshot_stays_what_it_was_while_the_writer_compacts(library, make_adapter):
    library.add(make_adapter(0))
    library.add(make_adapter(1))
    with AdapterLibrary.open(library.path, read_only=True) as reader:
        snapshot = reader.snapshot()
        expected = library.stack(MODULE, "task").A(torch.tensor([0, 1]))
        library.remove("adapter-0")
        library.compact()
        library.add(make_adapter(2))
        # The old files are gone from the folder, and nothing of them was read before.
        assert snapshot.stack(MODULE, "task").names == ("adapter-0", "adapter-1")
        found = snapshot.stack(MODULE, "task").A(torch.tensor([0, 1]))
        assert torch.equal(found, expected)
        assert reader.stack(MODULE, "task").names == ("adapter-1", "adapter-2")


def test_a_reader_that_comes_between_manifest_and_files_reads_the_newer_state(
    library, make_adapter, monkeypatch
):
    library.add(make_adapter(0))
    library.add(make_adapter(1))
    with AdapterLibrary.open(library.path, read_only=True) as reader:
        store = reader._store
        original = store._map

        def late(key, contents):
            monkeypatch.setattr(store, "_map", original)
            library.compact()
            return original(key, contents)

        monkeypatch.setattr(store, "_map", late)
        assert reader.stack(MODULE, "task").names == ("adapter-0", "adapter-1")
        assert reader.generation == library.generation


def test_another_process_may_read_but_not_write(library, make_adapter):
    library.add(make_adapter(0))
    result = python(
        """
        import sys
        from lag_engine.adapters import AdapterLibrary
        from lag_engine.errors import LibraryLockedError
        with AdapterLibrary.open(sys.argv[1], read_only=True) as reader:
            print([info.name for info in reader.list()])
        try:
            AdapterLibrary.open(sys.argv[1])
        except LibraryLockedError as error:
            print(error)
        """,
        library.path,
    )
    assert result.returncode == 0, result.stderr
    assert "['adapter-0']" in result.stdout
    assert f"process {os.getpid()} on" in result.stdout


def test_readers_in_threads_see_whole_states_while_a_writer_works(library, make_adapter):
    library.add_many([make_adapter(0), make_adapter(1)], progress=False)
    problems, is_done = [], False

    def read():
        with AdapterLibrary.open(library.path, read_only=True) as reader:
            while not is_done:
                snapshot = reader.snapshot()
                names = {info.name for info in snapshot.list()}
                stacks = [snapshot.stack(module, "task") for module in snapshot.modules()]
                for stack in stacks:
                    if set(stack.names) != names or len(names) % 2:
                        problems.append((names, stack.names))
                    stack.A(torch.arange(len(stack)))

    readers = [Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(2, 12, 2):
        library.add_many([make_adapter(i), make_adapter(i + 1)], progress=False)
        if i % 4 == 0:
            library.compact()
    is_done = True
    for reader in readers:
        reader.join()
    assert problems == []


def test_a_thousand_adapters_open_fast_and_cost_no_more_than_their_arrow_vectors(
    tmp_path, make_adapter
):
    modules = [f"model.layers.{i}.self_attn.q_proj" for i in range(4)]
    adapters = (
        AdapterSource(
            make_adapter(i, rank=8, modules=modules, shape=(128, 128)),
            kind="knowledge" if i % 5 else "task",
        )
        for i in range(1000)
    )
    with AdapterLibrary.create(tmp_path / "x", base_model=None) as library:
        library.add_many(adapters, progress=False)
        factors = sum(info.n_bytes for info in library.list())
    with AdapterLibrary.create(tmp_path / "warm", base_model=None) as library:
        library.add(make_adapter(0), kind="task")
        library.add(make_adapter(1), kind="knowledge")
    result = python(
        """
        import sys, time
        import torch
        from lag_engine.adapters import AdapterLibrary

        def resident():
            lines = open("/proc/self/smaps_rollup").read().split("\\n")
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss"))

        def scan(path):
            library = AdapterLibrary.open(path, read_only=True)
            snapshot = library.snapshot()
            stacks = [
                snapshot.stack(module, kind)
                for kind in ("task", "knowledge")
                for module in snapshot.modules(kind)
            ]
            sum(stack.arrow.sum() for stack in stacks)
            return library, stacks

        warm = scan(sys.argv[2])  # so that only the library's own pages are counted
        before = resident()
        start = time.perf_counter()
        opened = scan(sys.argv[1])
        print(time.perf_counter() - start, resident() - before)
        """,
        tmp_path / "x",
        tmp_path / "warm",
    )
    assert result.returncode == 0, result.stderr
    seconds, resident = (float(part) for part in result.stdout.split())
    arrows = 1000 * 4 * 128 * 4
    assert seconds < 2
    # Names, rows and page rounding come on top of the vectors; the factors do not.
    assert resident < arrows + 5e6 < factors / 4


def test_opening_reads_no_factor(tmp_path, make_adapter):
    """A factor page that is read faults in; resident file pages show it."""
    with AdapterLibrary.create(tmp_path / "x", base_model=None) as library:
        library.add_many(
            [make_adapter(i, rank=8, shape=(512, 512)) for i in range(64)], progress=False
        )
    with AdapterLibrary.open(tmp_path / "x", read_only=True) as library:
        start = time.perf_counter()
        stack = library.stack(MODULE, "task")
        assert time.perf_counter() - start < 1
        opened = mapped_resident()
        stack.A(torch.arange(64))
        assert mapped_resident() - opened > 0.5 * 64 * 8 * 512 * 4


def mapped_resident() -> int:
    """Resident bytes of mapped segment files."""
    total, is_segment = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            is_segment = line.endswith(".safetensors")
        elif is_segment and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total
