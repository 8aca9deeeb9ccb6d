"""Streaming: the pieces are the answer, closing frees the model, errors arrive."""

from __future__ import annotations

import pytest

from lag_engine.errors import GenerationError
from lag_engine.routing.plan import Plan
from lag_engine.routing.selections import Pinned


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.2, "seed": 4},
        {"trace": True},
        {"stop": ["e", "\n", "\ufffd\ufffd\ufffd"], "temperature": 1.5, "seed": 1},
    ],
)
@pytest.mark.parametrize("plan", ["base", "lag"])
def test_the_pieces_join_to_the_answer_of_generate(engine, plan, options):
    whole = engine.generate("Who?", plan=plan, max_new_tokens=30, **options)
    pieces = list(engine.stream("Who?", plan=plan, max_new_tokens=30, **options))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert sum((piece.token_ids for piece in pieces), ()) == whole.token_ids
    last = pieces[-1].generation
    assert (last.text, last.token_ids, last.finish_reason, last.usage) == (
        whole.text,
        whole.token_ids,
        whole.finish_reason,
        whole.usage,
    )
    assert (last.trace is None) == (whole.trace is None)
    assert all(piece.generation is None and piece.text for piece in pieces[:-1])


def forced(engine, text):
    """Makes the model write this text, whatever it is asked."""
    ids = [*engine.tokenizer(text, add_special_tokens=False)["input_ids"], 2]

    def hook(module, args, output):
        step = hook.step
        hook.step += 1
        output.logits[:, -1] = -1e9
        output.logits[:, -1, ids[min(step, len(ids) - 1)]] = 1e9
        return output

    hook.step = 0
    return engine.model.register_forward_hook(hook)


def test_characters_of_several_bytes_arrive_whole(engine):
    text = "Zoë 東京 🏯👩‍🚀!"
    handle = forced(engine, text)
    pieces = list(engine.stream("a", max_new_tokens=60))
    handle.remove()
    assert [piece.text for piece in pieces] == [*text, ""]
    assert pieces[-1].generation.finish_reason == "stop"
    assert pieces[-1].generation.text == text


def test_a_stop_string_across_tokens_never_shows(engine):
    handle = forced(engine, "a 東 <sto <stop> tail")
    pieces = list(engine.stream("a", max_new_tokens=60, stop="<stop>"))
    handle.remove()
    assert "".join(piece.text for piece in pieces) == "a 東 <sto "
    assert pieces[-1].generation.finish_reason == "stop"
    assert not any("<stop>" in piece.text for piece in pieces)


def test_closing_a_stream_ends_decoding_and_frees_the_model(engine):
    steps = []
    handle = engine.model.register_forward_hook(lambda *_: steps.append(1))
    stream = engine.stream("Who?", max_new_tokens=250)
    next(stream)
    stream.close()
    engine.score("a", "b", plan="base")
    handle.remove()
    assert len(steps) < 200
    assert engine.generate("a", max_new_tokens=1).usage.completion_tokens == 1


def test_a_stream_that_is_never_read_computes_nothing(engine):
    steps = []
    handle = engine.model.register_forward_hook(lambda *_: steps.append(1))
    stream = engine.stream("Who?", max_new_tokens=5)
    assert engine.score("a", "b", plan="base") < 0
    assert len(steps) == 1
    del stream
    handle.remove()


def test_two_streams_can_be_read_alternately(engine):
    alone = [engine.generate(p, max_new_tokens=12).text for p in ("Who?", "a")]
    first, second = (engine.stream(p, max_new_tokens=12) for p in ("Who?", "a"))
    texts = ["", ""]
    for one, two in zip(first, second, strict=False):
        texts[0] += one.text
        texts[1] += two.text
    texts[0] += "".join(piece.text for piece in first)
    texts[1] += "".join(piece.text for piece in second)
    assert texts[0] == alone[0]
    assert alone[1].startswith(texts[1])


def test_a_wrong_request_fails_before_the_first_piece(engine):
    with pytest.raises(GenerationError, match="temperature"):
        engine.stream("a", temperature=-1)


def test_an_error_in_the_model_reaches_the_reader_and_the_engine_lives_on(engine):
    def fail(*_):
        raise RuntimeError("broken layer")

    handle = engine.model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken layer"):
        list(engine.stream("a", max_new_tokens=3))
    with pytest.raises(RuntimeError, match="broken layer"):
        engine.generate("a", plan=Plan("custom", task=Pinned("task0")))
    handle.remove()
    assert engine.generate("a", max_new_tokens=2).usage.completion_tokens == 2


def test_closing_the_engine_ends_its_streams_with_an_error(engine):
    stream = engine.stream("Who?", max_new_tokens=250)
    next(stream)
    engine.close()
    with pytest.raises(GenerationError, match="closed"):
        list(stream)
