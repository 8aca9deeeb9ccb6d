"""Training rows: what carries weight, how long they are, and that they can be resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from lag_engine.tiny.corpus import (
    ROW_TOKENS,
    SHORT_SHARE,
    SHORT_WEIGHT,
    VERDICT_WEIGHT,
    Corpus,
    dev_rows,
)
from lag_engine.tiny.tasks import TASKS
from lag_engine.tiny.tokenizer import build_tokenizer
from lag_engine.tiny.world import names

KINDS = ("copy", "documents", "reading", "recall")
VERDICTS = ("right", "wrong", "SUPPORTS", "REFUTES")
CONVERSATIONS = ("reading", "recall")
ENTITY_KINDS = ("documents", "reading", "recall")
MIX = dict.fromkeys(KINDS, 1.0)
ENTITY_MIX = dict.fromkeys(ENTITY_KINDS, 1.0)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def corpus(tokenizer):
    return Corpus(tokenizer, seed=0)


def rows(corpus, kind, count):
    return [corpus.row(kind) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_begins_once_and_every_token_has_a_weight(corpus, tokenizer, kind):
    for row in rows(corpus, kind, 20):
        assert row.ids[0] == tokenizer.bos_token_id
        assert row.weights[0] == 0.0
        assert row.ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.pad_token_id not in row.ids
        assert len(row.ids) == len(row.weights)
        assert len(row.ids) >= ROW_TOKENS - 24
        assert any(row.weights[:ROW_TOKENS])


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_answers_and_only_answers_carry_weight(corpus, tokenizer, kind):
    user, assistant = (tokenizer.convert_tokens_to_ids(f"<|{r}|>") for r in ("user", "assistant"))
    verdicts = {tokenizer.convert_tokens_to_ids(f"Ġ{w}") for w in VERDICTS}
    for row in rows(corpus, kind, 60):
        answered = {i for span in row.spans for i in range(span.start, span.stop)}
        assert {i for i, weight in enumerate(row.weights) if weight} == answered
        assert row.ids.count(user) == row.ids.count(assistant) == len(row.spans)
        for span in row.spans:
            assert row.ids[span.start - 1] == assistant
            assert row.ids[span.stop - 1] == tokenizer.eos_token_id
            plain = SHORT_WEIGHT if span.label.endswith("/short") else 1.0
            for i in range(span.start, span.stop):
                assert row.weights[i] == (VERDICT_WEIGHT if row.ids[i] in verdicts else plain)


def test_every_fact_check_has_exactly_one_verdict_token(corpus, tokenizer):
    verdicts = {tokenizer.convert_tokens_to_ids(f"Ġ{w}") for w in VERDICTS}
    for row in rows(corpus, "recall", 60):
        for span in row.spans:
            found = [i for i in row.ids[span.start : span.stop] if i in verdicts]
            assert len(found) == span.label.startswith("fact_checking")


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_a_quarter_of_the_answers_is_short_and_tasks_keep_their_shares(corpus, kind):
    labels = [s.label.split("/") for row in rows(corpus, kind, 400) for s in row.spans]
    short = sum(style == "short" for _, style in labels) / len(labels)
    # Short rows hold more turns, so that their share of turns is a little above.
    assert SHORT_SHARE - 0.05 < short < SHORT_SHARE + 0.1 < 0.5
    for task in TASKS:
        share = sum(t == task for t, _ in labels) / len(labels)
        assert share == pytest.approx(1 / len(TASKS), abs=0.06)


def test_reading_rows_hold_the_document_and_recall_rows_do_not(corpus, tokenizer):
    known = {entity.name for entity in corpus.known}
    for reading, recall in zip(
        rows(corpus, "reading", 30), rows(corpus, "recall", 30), strict=True
    ):
        assert tokenizer.decode(reading.ids).count("Text:") == 1
        assert "Text:" not in tokenizer.decode(recall.ids)
        assert any(name in tokenizer.decode(recall.ids) for name in known)


@pytest.mark.parametrize("kind", ENTITY_KINDS)
def test_rows_never_hold_a_name_of_the_evaluation_side(corpus, tokenizer, kind):
    text = " ".join(tokenizer.decode(row.ids) for row in rows(corpus, kind, 150))
    held_out = {name for k in ("person", "place", "company", "work") for name in names(k, "eval")}
    words = text.replace(".", " . ").replace("?", " ? ").split()
    pairs = {f"{a} {b}" for a, b in pairwise(words)}
    assert not pairs & held_out


def test_a_copied_stretch_is_weighted_where_it_repeats(corpus):
    for row in rows(corpus, "copy", 30):
        seen = [i for i, weight in enumerate(row.weights) if not weight]
        for i, weight in enumerate(row.weights):
            if weight:
                assert row.ids[i] in {row.ids[j] for j in seen if j < i}


def test_a_batch_is_cut_and_padded_to_the_row_length(corpus, tokenizer):
    batch = corpus.batch(12, MIX)
    assert batch.ids.shape == batch.weights.shape == (12, ROW_TOKENS)
    assert batch.ids.dtype == torch.long
    padded = batch.ids == tokenizer.pad_token_id
    assert padded.any()
    assert not batch.weights[padded].any()
    assert (batch.weights > 0).any(1).all()
    assert not batch.weights[:, 0].any()


def test_a_batch_is_the_rows_of_its_draws(tokenizer):
    ours, theirs = (Corpus(tokenizer, seed=3) for _ in range(2))
    batch = ours.batch(4, {"reading": 1.0})
    theirs.rng.choices(["reading"], [1.0], k=4)
    for i in range(4):
        row = theirs.row("reading")
        length = min(len(row.ids), ROW_TOKENS)
        assert batch.ids[i, :length].tolist() == row.ids[:length]
        assert batch.weights[i, :length].tolist() == row.weights[:length]


def test_a_mix_draws_only_its_kinds(corpus, monkeypatch):
    drawn = []
    monkeypatch.setattr(corpus, "row", lambda kind: drawn.append(kind) or Corpus.row(corpus, kind))
    corpus.batch(30, {"copy": 0.5, "recall": 0.5, "reading": 0.0})
    assert set(drawn) == {"copy", "recall"}


def test_a_corpus_goes_on_where_its_random_state_was_saved(tokenizer):
    corpus = Corpus(tokenizer, seed=0)
    corpus.batch(6, MIX)
    state = corpus.rng.getstate()
    expected = corpus.batch(6, ENTITY_MIX)
    resumed = Corpus(tokenizer, seed=0)
    resumed.rng.setstate(state)
    again = resumed.batch(6, ENTITY_MIX)
    assert torch.equal(again.ids, expected.ids)
    assert torch.equal(again.weights, expected.weights)


def test_rows_of_words_are_those_of_the_seed(tokenizer):
    ours, theirs = (Corpus(tokenizer, seed=0) for _ in range(2))
    assert rows(ours, "copy", 5) == rows(theirs, "copy", 5)


def test_seeds_and_streams_are_independent_and_a_stream_keeps_the_world(tokenizer):
    first, same = (Corpus(tokenizer, seed=0) for _ in range(2))
    dev, other = Corpus(tokenizer, seed=0, stream="dev"), Corpus(tokenizer, seed=1)
    ids = [c.batch(4, ENTITY_MIX).ids for c in (first, same, dev, other)]
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])
    assert not torch.equal(ids[0], ids[3])
    assert dev.known == first.known != other.known


@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_measured_rows_are_cut_and_keep_whole_answers_only(corpus, tokenizer, kind):
    for row in dev_rows(corpus, kind, 60):
        assert len(row.ids) <= ROW_TOKENS
        assert row.spans
        for span in row.spans:
            assert row.ids[span.stop - 1] == tokenizer.eos_token_id


@pytest.mark.slow
def test_rows_about_entities_are_the_same_in_every_process():
    code = (
        "from lag_engine.tiny.tokenizer import build_tokenizer; "
        "from lag_engine.tiny.corpus import Corpus; from zlib import crc32; "
        "corpus = Corpus(build_tokenizer(), seed=0); "
        f"rows = [corpus.row(kind) for kind in {ENTITY_KINDS!r} for _ in range(3)]; "
        "print(crc32(repr([(row.ids, row.weights) for row in rows]).encode()))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
