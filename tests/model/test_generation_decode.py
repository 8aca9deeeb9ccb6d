"""Decoding, paged and solo: each row ends by its own limits and writes what it writes alone."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from lag_engine.model.bank import AdapterBank
from lag_engine.model.generation import Request, Row
from lag_engine.model.paged import PagedDecoder
from lag_engine.model.sampling import Sampling
from lag_engine.model.scheduler import Scheduler
from lag_engine.model.seat import Seat
from lag_engine.model.surgery import install
from lag_engine.routing.plan import Plan

BASE = Plan.from_mode("base")


def request(prompt_ids, *, end_ids=(), **options):
    sampling = Sampling(**{"max_new_tokens": 12, **options})
    return Request(tuple(prompt_ids), BASE, sampling, frozenset(end_ids), sampling.max_new_tokens)


@pytest.fixture(params=["paged", "solo"], autouse=True)
def decoder(request, monkeypatch):
    monkeypatch.setattr(PagedDecoder, "can_decode", lambda _: request.param == "paged")
    return request.param


def decode(model, rows, *, on_text=None, is_cancelled=lambda: False):
    """Steps a scheduler until all rows are at their ends, and returns its seats."""
    seats = [
        Seat(
            row,
            on_text=on_text,
            on_end=lambda seat: None,
            is_cancelled=is_cancelled,
            is_traced=False,
        )
        for row in rows
    ]
    with install(model, AdapterBank(None)) as surgery, torch.inference_mode():
        scheduler = Scheduler(model, surgery, pad_id=0, max_batch=4, max_waiting=9)
        scheduler.add(seats)
        while not scheduler.is_idle:
            scheduler.step()
        scheduler.close()
    return seats


def run(model, tokenizer, *requests):
    rows = [Row(r, tokenizer) for r in requests]
    decode(model, rows)
    return [row.generation() for row in rows]


def greedy(model, prompt_ids, n):
    """The reference: a full forward for each token, no cache, no padding."""
    ids = list(prompt_ids)
    with torch.no_grad():
        for _ in range(n):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(prompt_ids) :])


PROMPTS = ([1, 40, 41], [1, 99], [1, 70, 71, 72, 73, 74, 75, 76])


def test_cached_decoding_equals_a_full_forward_for_each_token(text_model, byte_tokenizer):
    [answer] = run(text_model, byte_tokenizer, request(PROMPTS[0]))
    assert answer.token_ids == greedy(text_model, PROMPTS[0], 12)
    assert answer.finish_reason == "length"
    assert answer.usage.total_tokens == 15
    assert answer.text == byte_tokenizer.decode(answer.token_ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "seed": 7}, {"repetition_penalty": 1.5}]
)
def test_rows_together_equal_the_rows_alone(text_model, byte_tokenizer, options):
    requests = [request(ids, **options) for ids in PROMPTS]
    together = run(text_model, byte_tokenizer, *requests)
    alone = [run(text_model, byte_tokenizer, r)[0] for r in requests]
    assert together == alone


def test_rows_with_different_settings_share_a_batch(text_model, byte_tokenizer):
    requests = [
        request(PROMPTS[0], max_new_tokens=3),
        request(PROMPTS[1], max_new_tokens=9, temperature=0.8, top_k=5, seed=1),
        request(PROMPTS[2], max_new_tokens=6, repetition_penalty=1.3),
    ]
    together = run(text_model, byte_tokenizer, *requests)
    assert [len(a.token_ids) for a in together] == [3, 9, 6]
    assert together == [run(text_model, byte_tokenizer, r)[0] for r in requests]


def test_an_end_token_ends_its_row_only_and_has_no_text(text_model, byte_tokenizer):
    free = greedy(text_model, PROMPTS[0], 12)
    end = free[4]
    cut = free.index(end) + 1
    ended, other = run(
        text_model, byte_tokenizer, request(PROMPTS[0], end_ids=[end, 5]), request(PROMPTS[1])
    )
    assert ended.token_ids == free[:cut]
    assert ended.finish_reason == "stop"
    assert ended.text == byte_tokenizer.decode(free[: cut - 1], skip_special_tokens=True)
    assert other.token_ids == greedy(text_model, PROMPTS[1], 12)


def test_the_checkpoints_sampling_defaults_are_not_used(text_model, byte_tokenizer):
    own = GenerationConfig(do_sample=True, repetition_penalty=9.0, top_k=3, max_length=5)
    text_model.generation_config = own
    [answer] = run(text_model, byte_tokenizer, request(PROMPTS[0]))
    assert answer.token_ids == greedy(text_model, PROMPTS[0], 12)
    assert text_model.generation_config is own


def test_a_cancelled_batch_ends_at_the_next_token(text_model, byte_tokenizer):
    heard = []
    row = Row(request(PROMPTS[0]), byte_tokenizer)
    decode(
        text_model,
        [row],
        on_text=lambda row, text: heard.append(row.token_ids[-1]),
        is_cancelled=lambda: len(heard) == 3,
    )
    assert tuple(row.token_ids) == tuple(heard) == greedy(text_model, PROMPTS[0], 12)[:3]
    assert row.finish_reason is None


def feed_text(tokenizer, text, **options):
    """A row that is told to write this text, and the pieces it gave out."""
    row = Row(request([1], max_new_tokens=100, end_ids=[2], **options), tokenizer)
    pieces = []
    for token_id in [*tokenizer(text, add_special_tokens=False)["input_ids"], 2]:
        pieces.append(row.feed(token_id).text)
        if row.finish_reason:
            break
    return row, pieces


def test_a_stop_string_across_tokens_cuts_the_text_and_keeps_the_tokens(byte_tokenizer):
    row, pieces = feed_text(byte_tokenizer, "京都 <stop> more", stop=["<stop>", "xyz"])
    answer = row.generation()
    assert answer.text == "".join(pieces) == "京都 "
    assert answer.finish_reason == "stop"
    assert byte_tokenizer.decode(answer.token_ids) == "京都 <stop>"


def test_what_only_began_like_a_stop_string_comes_out_at_the_end(byte_tokenizer):
    row, pieces = feed_text(byte_tokenizer, "a <sto", stop=["<stop>"])
    assert "".join(pieces) == row.text == "a <sto"
    assert pieces[-1] == "<sto"


def test_the_last_token_allowed_may_still_complete_a_stop_string(byte_tokenizer):
    row = Row(request([1], max_new_tokens=3, stop=["b!"]), byte_tokenizer)
    for token_id in byte_tokenizer("ab!", add_special_tokens=False)["input_ids"]:
        row.feed(token_id)
    assert (row.text, row.finish_reason) == ("a", "stop")
