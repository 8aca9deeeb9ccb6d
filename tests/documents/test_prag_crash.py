"""`kill -9` at any moment of encoding: nothing lost, nothing doubled, and going on ends the same.

A forked child encodes under a line tracer that kills it at lines drawn at random, several times in
a row; between two kills the parent looks at what is there.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace

import pytest

from lag_engine.adapters import AdapterLibrary
from lag_engine.documents import prag as prag_module

WATCHED = (
    "prag.py",
    "training.py",
    "grouping.py",
    "segments.py",
    "manifest.py",
    "writing.py",
    "library.py",
)


@pytest.fixture
def encode(prag, monkeypatch):
    """Opens the library at a path and encodes, two passages to a group."""
    monkeypatch.setattr(prag_module, "LARGEST_GROUP", 2)

    def run(path, passages):
        with AdapterLibrary.open(path) as opened:
            prag(library=opened).encode(passages)

    return run


def held(path):
    with AdapterLibrary.open(path, read_only=True) as library:
        library.verify()
        return {info.name: info.sha256 for info in library.list()}, library.fingerprint


def test_killed_anywhere_and_run_again_gives_the_undisturbed_library(
    library, encode, make_passage, killable_lines, tmp_path
):
    old = [make_passage(i, pairs=1 + i % 3) for i in range(5)]
    new = [replace(p, text=f"{p.text} Or not.") for p in old[:3]] + [make_passage(7), *old[3:]]
    library.close()
    encode(library.path, old)
    before, _ = held(library.path)
    shutil.copytree(library.path, tmp_path / "template")

    lines = killable_lines(*WATCHED)
    n_lines = lines.count(lambda: encode(library.path, new))
    after, fingerprint = held(library.path)
    assert len(after) == 6
    assert {name for name in before if before[name] == after[name]} == {"prag-p3", "prag-p4"}

    rng = random.Random(0)
    n_kills, states = 0, set()
    for round_ in range(4):
        path = tmp_path / f"killed-{round_}"
        shutil.copytree(tmp_path / "template", path)
        for _ in range(3):
            point = rng.randrange(1, n_lines)
            n_kills += lines.kill(lambda path=path: encode(path, new), point)
            found, _ = held(path)
            assert set(before) <= set(found) <= set(after), "nothing is lost"
            assert all(found[name] in (before.get(name), after[name]) for name in found)
            states.add(tuple(sorted(found.values())))
        encode(path, new)
        assert held(path) == (after, fingerprint)
    assert n_kills >= 4
    assert len(states) >= 3, "kills fell before, between and after the groups"
