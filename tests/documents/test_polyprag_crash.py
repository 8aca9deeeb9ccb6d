"""`kill -9` while a collection is encoded: the first call is all or nothing, later ones go on."""

from __future__ import annotations

import random
import shutil

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
    call, library, encode, make_passage, killable_lines, tmp_path
):
    library.close()
    old = [make_passage(i) for i in range(3)]
    new = old if call == "first" else [*old, *(make_passage(i) for i in range(3, 7))]
    if call == "later":
        encode(library.path, old)
    before = held(library.path)
    shutil.copytree(library.path, tmp_path / "template")
    lines = killable_lines(*WATCHED)
    n_lines = lines.count(lambda: encode(library.path, new))
    after = held(library.path)

    random_points = random.Random(call)
    for round_ in range(6):
        path = tmp_path / f"killed-{round_}"
        shutil.copytree(tmp_path / "template", path)
        point = random_points.randrange(1, n_lines)
        assert lines.kill(lambda path=path: encode(path, new), point)
        found = held(path)
        if call == "first":
            assert found in (before, after)
        assert before.items() <= found.items() <= after.items(), "nothing lost, nothing doubled"
        encode(path, new)
        assert held(path) == after
