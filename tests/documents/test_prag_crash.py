"""`kill -9` at any moment of encoding: nothing lost, nothing doubled, and going on ends the same.

A forked child encodes under a line tracer that kills it at lines drawn at random, several times in
a row; between two kills the parent looks at what is there.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import warnings
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


def killing_tracer(kill_at):
    n_lines = 0

    def trace(frame, event, _):
        nonlocal n_lines
        if not frame.f_code.co_filename.endswith(WATCHED):
            return None
        if event == "line":
            n_lines += 1
            if n_lines == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace, lambda: n_lines


def killed_in_child(action, kill_at):
    """Runs the action in a forked child; says whether it was killed before its end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.settrace(killing_tracer(kill_at)[0])
            action()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


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
    library, encode, make_passage, tmp_path
):
    old = [make_passage(i, pairs=1 + i % 3) for i in range(5)]
    new = [replace(p, text=f"{p.text} Or not.") for p in old[:3]] + [make_passage(7), *old[3:]]
    library.close()
    encode(library.path, old)
    before, _ = held(library.path)
    shutil.copytree(library.path, tmp_path / "template")

    trace, count = killing_tracer(-1)
    sys.settrace(trace)
    try:
        encode(library.path, new)
    finally:
        sys.settrace(None)
    after, fingerprint = held(library.path)
    assert len(after) == 6
    assert {name for name in before if before[name] == after[name]} == {"prag-p3", "prag-p4"}

    rng = random.Random(0)
    n_kills, states = 0, set()
    for round_ in range(4):
        path = tmp_path / f"killed-{round_}"
        shutil.copytree(tmp_path / "template", path)
        for _ in range(3):
            point = rng.randrange(1, count())
            n_kills += killed_in_child(lambda path=path: encode(path, new), point)
            found, _ = held(path)
            assert set(before) <= set(found) <= set(after), "nothing is lost"
            assert all(found[name] in (before.get(name), after[name]) for name in found)
            states.add(tuple(sorted(found.values())))
        encode(path, new)
        assert held(path) == (after, fingerprint)
    assert n_kills >= 4
    assert len(states) >= 3, "kills fell before, between and after the groups"
