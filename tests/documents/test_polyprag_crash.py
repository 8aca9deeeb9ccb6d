"""`kill -9` while a collection is encoded: the first call is all or nothing, later ones go on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import warnings

import pytest

from lag_engine.adapters import AdapterLibrary
from lag_engine.documents import polyprag as polyprag_module
from lag_engine.documents.polyprag import PolyPRAG
from lag_engine.documents.polyprag_settings import PolyPRAGSettings

QUICK = PolyPRAGSettings(n_latents=3, top_k=2, epochs=1, routing_epochs=1, step_passages=2)
WATCHED = (
    "polyprag.py",
    "latent_training.py",
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            sys.settrace(killing_tracer(kill_at)[0])
            action()
        finally:
            os._exit(1)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def held(path):
    with AdapterLibrary.open(path, read_only=True) as library:
        library.verify()
        return {info.name: info.sha256 for info in library.list()}


@pytest.fixture
def encode(pico, monkeypatch):
    monkeypatch.setattr(polyprag_module, "LARGEST_GROUP", 2)

    def run(path, passages):
        with AdapterLibrary.open(path) as opened:
            encoder = PolyPRAG(pico.model, pico.tokenizer, opened, settings=QUICK, progress=False)
            encoder.encode(passages)

    return run


@pytest.mark.parametrize("call", ["first", "later"])
def test_killed_anywhere_and_run_again_gives_the_undisturbed_library(
    call, library, encode, make_passage, tmp_path
):
    library.close()
    old = [make_passage(i) for i in range(3)]
    new = old if call == "first" else [*old, *(make_passage(i) for i in range(3, 7))]
    if call == "later":
        encode(library.path, old)
    before = held(library.path)
    shutil.copytree(library.path, tmp_path / "template")
    trace, count = killing_tracer(-1)
    sys.settrace(trace)
    try:
        encode(library.path, new)
    finally:
        sys.settrace(None)
    after = held(library.path)

    random_points = random.Random(call)
    for round_ in range(6):
        path = tmp_path / f"killed-{round_}"
        shutil.copytree(tmp_path / "template", path)
        point = random_points.randrange(1, count())
        assert killed_in_child(lambda path=path: encode(path, new), point)
        found = held(path)
        if call == "first":
            assert found in (before, after)
        assert before.items() <= found.items() <= after.items(), "nothing lost, nothing doubled"
        encode(path, new)
        assert held(path) == after
