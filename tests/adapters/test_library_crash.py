"""`kill -9` at any instant leaves the library as it was before, or as it is after.

A forked child runs one change under a line tracer that kills it at a chosen line of our code; the
parent then opens what is left. The lines are drawn at random from all that run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal

import pytest
import torch

from lag_engine.adapters import AdapterLibrary, AdapterSource, MixtureSource

MODULE = "model.layers.0.self_attn.q_proj"
DISK = ("segments.py", "manifest.py", "writing.py", "mixtures.py", "schema.py")
DISK += ("library.py", "store.py", "lock.py")


def change_of(kind, library, make_adapter):
    if kind == "add":
        library.add(make_adapter(7), name="new")
    elif kind == "add_many":
        library.add_many([make_adapter(i) for i in (8, 9)], progress=False)
    elif kind == "replace":
        newcomers = [AdapterSource(make_adapter(i), f"adapter-{i - 8}") for i in (9, 10, 11)]
        library.add_many(newcomers, replace=True, progress=False)
    elif kind == "remove":
        library.remove("adapter-1")
    elif kind == "rename":
        library.rename("adapter-1", "new")
    elif kind == "mix":
        mixtures = [passage("p0"), passage("p2", weight=0.25), passage("new")]
        library.add_mixtures(mixtures, replace=True)
    elif kind == "renew latents":
        mixtures = [passage(f"p{i}", weight=2.0) for i in range(3)]
        library.add_mixtures(mixtures, latents=latents(make_adapter, 30), replace=True)
    elif kind == "remove mixture":
        library.remove("p1")
    else:
        library.compact()


def latents(make_adapter, seed):
    return [AdapterSource(make_adapter(seed + i), f"latent-{i}", "latent") for i in range(2)]


def passage(name, *, weight=1.0):
    return MixtureSource(name, {MODULE: {"latent-0": weight, "latent-1": 0.5}}, name)


def build(path, make_adapter) -> None:
    with AdapterLibrary.create(path, base_model=None) as library:
        for i in range(3):
            library.add(make_adapter(i, rank=i + 1))
        library.remove("adapter-0")
        library.add_mixtures(
            [passage(f"p{i}") for i in range(3)], latents=latents(make_adapter, 20)
        )


def outcome(path):
    """What a reader sees, after everything was verified."""
    with AdapterLibrary.open(path, read_only=True) as reader:
        reader.verify()
        stack = reader.stack(MODULE, "task")
        shared = reader.stack(MODULE, "latent")
        mixed = {
            name: reader.snapshot().mixture(name)[MODULE] for name in reader.snapshot().mixtures
        }
        return (
            stack.names,
            reader.fingerprint,
            float(stack.B(torch.arange(len(stack))).sum()),
            float(shared.B(torch.arange(len(shared))).sum()),
            mixed,
        )


KINDS = ["add", "add_many", "replace", "remove", "rename", "compact"]
LATENT_KINDS = ["mix", "renew latents", "remove mixture"]


@pytest.mark.parametrize("kind", [*KINDS, *LATENT_KINDS])
def test_a_kill_at_any_line_leaves_the_state_before_or_after(
    tmp_path, make_adapter, killable_lines, kind
):
    def change(path):
        with AdapterLibrary.open(path) as library:
            change_of(kind, library, make_adapter)

    build(tmp_path / "whole", make_adapter)
    shutil.copytree(tmp_path / "whole", tmp_path / "template")
    before = outcome(tmp_path / "whole")
    lines = killable_lines(*DISK)
    n_lines = lines.count(lambda: change(tmp_path / "whole"))
    after = outcome(tmp_path / "whole")
    assert n_lines > 50

    points = random.Random(kind).sample(range(1, n_lines), 16)
    for point in sorted(points):
        path = tmp_path / f"killed-{point}"
        shutil.copytree(tmp_path / "template", path)
        assert lines.kill(lambda path=path: change(path), point)
        assert outcome(path) in (before, after)
        assert_clean_after_the_next_writer(path)
        with AdapterLibrary.open(path) as library:
            library.add(make_adapter(50))
            library.verify()


def assert_clean_after_the_next_writer(path) -> None:
    with AdapterLibrary.open(path) as library:
        named = library.verify().n_segments
    assert len(list((path / "segments").iterdir())) == named


def test_a_kill_while_format_1_becomes_format_2_leaves_one_of_the_two(
    tmp_path, make_adapter, as_format_1, killable_lines
):
    with AdapterLibrary.create(tmp_path / "old", base_model=None) as library:
        library.add(make_adapter(1))
    as_format_1(tmp_path / "old")

    def opened(path):
        AdapterLibrary.open(path).close()

    shutil.copytree(tmp_path / "old", tmp_path / "whole")
    lines = killable_lines(*DISK)
    n_lines = lines.count(lambda: opened(tmp_path / "whole"))
    before = outcome(tmp_path / "whole")
    for point in random.Random(0).sample(range(1, n_lines), 12):
        path = tmp_path / f"killed-{point}"
        shutil.copytree(tmp_path / "old", path)
        assert lines.kill(lambda path=path: opened(path), point)
        assert outcome(path) == before
        with AdapterLibrary.open(path) as library:
            library.add_mixtures([passage("p")], latents=latents(make_adapter, 20))
            library.verify()


@pytest.mark.parametrize(
    "step",
    ["os.fsync", "pathlib.Path.replace", "lag_engine.adapters.manifest.Change.insert_adapter"],
)
def test_a_failing_disk_leaves_the_library_usable_and_clean(
    tmp_path, make_adapter, monkeypatch, step
):
    build(tmp_path / "x", make_adapter)
    before = outcome(tmp_path / "x")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with AdapterLibrary.open(tmp_path / "x") as library:
        with monkeypatch.context() as patch:
            patch.setattr(step, fail)
            with pytest.raises(OSError, match="No space left"):
                library.add(make_adapter(7))
        assert outcome(tmp_path / "x") == before
        assert len(list((library.path / "segments").iterdir())) == library.verify().n_segments
        library.add(make_adapter(7))
        assert "adapter-7" in library


def test_an_interrupt_in_the_middle_of_a_batch_changes_nothing(tmp_path, make_adapter):
    build(tmp_path / "x", make_adapter)
    before = outcome(tmp_path / "x")

    def interrupted():
        yield make_adapter(7)
        raise KeyboardInterrupt

    with AdapterLibrary.open(tmp_path / "x") as library:
        with pytest.raises(KeyboardInterrupt):
            library.add_many(interrupted(), progress=False)
        assert outcome(tmp_path / "x") == before


def test_a_killed_writer_holds_no_lock(tmp_path, make_adapter, killable_lines):
    build(tmp_path / "x", make_adapter)

    def doomed():
        library = AdapterLibrary.open(tmp_path / "x")
        assert library.list()
        os.kill(os.getpid(), signal.SIGKILL)

    assert killable_lines().kill(doomed, -1)
    AdapterLibrary.open(tmp_path / "x").close()
