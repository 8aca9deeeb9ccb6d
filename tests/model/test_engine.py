"""The engine: prompts, plans, batches, logits and scores, on a tiny model with a real library."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from lag_engine.adapters.library import AdapterLibrary
from lag_engine.errors import (
    AdapterMismatchError,
    AdapterNotFoundError,
    GenerationError,
    ModelError,
    PlanError,
    PromptTooLongError,
)
from lag_engine.model.engine import LAGEngine
from lag_engine.routing.plan import Plan
from lag_engine.routing.routers import LAG
from lag_engine.routing.selections import Pinned, Routed

PLANS = {
    "base": {},
    "arrow": {"top_k": 2},
    "spectr": {"score": "norm"},
    "lag": {"retrieve_k": 3},
    "prag": {"adapters": ["doc1", "doc4"]},
    "prag+lag": {"adapters": ["doc2"]},
    "oracle": {"adapters": ["task1", "doc3"]},
}
TEXTS = ["Who?", "The capital of 東京 is", "a"]


@pytest.fixture
def plans(engine):
    return [engine.plan(mode, **options) for mode, options in PLANS.items()]


def routed(answer):
    """Who was applied where, in one order."""
    return sorted((r["module"], r["token"], str(r["adapter"])) for r in answer.trace.records())


def decoded_by_full_forwards(engine, plan, prompt_ids, n):
    """Greedy tokens from `engine.logits`, without cache or padding."""
    ids = list(prompt_ids)
    for _ in range(n):
        ids.append(int(engine.logits(torch.tensor([ids]), plan=plan)[0, -1].argmax()))
    return tuple(ids[len(prompt_ids) :])


def test_cached_decoding_equals_full_forwards_under_every_plan(engine, plans):
    answers = {}
    for plan in plans:
        answer = engine.generate("Who?", plan=plan, max_new_tokens=6)
        assert answer.plan == plan
        assert answer.token_ids == decoded_by_full_forwards(
            engine, plan, answer.prompt_token_ids, len(answer.token_ids)
        )
        answers[plan.mode] = answer.token_ids
    assert len(set(answers.values())) > 3


def test_rows_with_different_plans_and_lengths_equal_the_rows_alone(engine, plans):
    prompts = [TEXTS[i % 3] for i in range(len(plans))]
    together = engine.generate_batch(prompts, plans=plans, max_new_tokens=6, trace=True)
    alone = [
        engine.generate(prompt, plan=plan, max_new_tokens=6, trace=True)
        for prompt, plan in zip(prompts, plans, strict=True)
    ]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.text == theirs.text
        named = [
            [(r["module"], r["token"], r["adapter"]) for r in a.trace.records()]
            for a in (ours, theirs)
        ]
        assert sorted(named[0]) == sorted(named[1])


def test_left_padded_logits_equal_the_logits_alone(engine, plans):
    rows = [[1, *range(20, 20 + n)] for n in (3, 7, 5)]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    chosen = [plans[3], plans[0], plans[6]]
    together = engine.logits(ids, mask, plan=chosen)
    for i, (row, plan) in enumerate(zip(rows, chosen, strict=True)):
        alone = engine.logits(torch.tensor([row]), plan=plan)[0]
        torch.testing.assert_close(together[i, -len(row) :], alone, rtol=1e-4, atol=1e-4)


def test_one_plan_serves_all_rows_of_logits(engine):
    ids = torch.tensor([[1, 30, 31], [1, 40, 41]])
    together = engine.logits(ids, plan="lag")
    assert together.shape == (2, 3, 263)
    torch.testing.assert_close(together[1:], engine.logits(ids[1:], plan="lag"))


def test_logits_may_enter_a_callers_autograd_graph(engine):
    logits = engine.logits(torch.tensor([[1, 30, 31]]), plan="lag")
    weight = torch.ones(logits.shape[-1], requires_grad=True)
    (logits @ weight).sum().backward()
    assert weight.grad is not None


def test_the_score_is_the_sum_of_log_probabilities(engine):
    prompt, continuation = [1, 60, 61], [62, 63, 64]
    logits = engine.logits(torch.tensor([prompt + continuation]), plan="lag")[0]
    each = logits.double().log_softmax(-1)[2:5]
    expected = sum(float(each[i, token]) for i, token in enumerate(continuation))
    assert engine.score(prompt, continuation, plan="lag") == pytest.approx(expected, abs=1e-4)


def test_the_score_of_the_greedy_answer_beats_any_other_token(engine):
    best = engine.generate("Who?", plan="lag", max_new_tokens=1).token_ids
    scores = [engine.score("Who?", [i], plan="lag") for i in range(20, 40)]
    assert engine.score("Who?", best, plan="lag") >= max(scores)


def test_scores_of_text_and_of_its_tokens_agree(engine, byte_tokenizer):
    ids = byte_tokenizer(" 東京", add_special_tokens=False)["input_ids"]
    assert engine.score("a", " 東京", plan="lag") == engine.score("a", ids, plan="lag")
    messages = [{"role": "user", "content": "a"}]
    assert math.isfinite(engine.score(messages, " 東京"))
    with pytest.raises(GenerationError, match="continuation"):
        engine.score("a", "")


def test_a_conversation_is_tokenised_once_with_one_begin_token(engine, byte_tokenizer):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    written = "<s><|system|>s<|end|><|user|>hi<|end|><|assistant|>"
    ids = tuple(byte_tokenizer(written, add_special_tokens=False)["input_ids"])
    assert engine.tokenize_messages(messages) == ids
    answer = engine.generate(messages, plan="base", max_new_tokens=2)
    assert answer.prompt_token_ids == ids
    assert ids.count(byte_tokenizer.bos_token_id) == 1
    assert engine.generate(written, plan="base", max_new_tokens=2) == answer
    assert engine.generate(ids, plan="base", max_new_tokens=2) == answer
    assert engine.tokenize_messages(messages, add_generation_prompt=False) == ids[:-1]


def test_raw_text_gets_its_begin_token_once(engine, byte_tokenizer):
    answer = engine.generate("hi", plan="base", max_new_tokens=1)
    assert answer.prompt_token_ids == tuple(byte_tokenizer("hi")["input_ids"])
    assert answer.prompt_token_ids[0] == byte_tokenizer.bos_token_id


def test_what_a_template_refuses_is_told(engine):
    with pytest.raises(GenerationError, match="unknown role robot"):
        engine.generate([{"role": "robot", "content": "x"}])


@pytest.mark.parametrize("prompt", ["", [], [1, -1], [1, 263], ["a"], 7, None, [True]])
def test_what_is_no_prompt_is_refused(text_model, tokenizer_without_begin, prompt):
    with (
        LAGEngine(text_model, tokenizer_without_begin) as engine,
        pytest.raises(GenerationError, match="Expected"),
    ):
        engine.generate(prompt, plan="base")


def test_messages_for_a_model_without_a_template_are_refused(text_model, tokenizer_without_begin):
    with (
        LAGEngine(text_model, tokenizer_without_begin) as engine,
        pytest.raises(GenerationError, match="chat template"),
    ):
        engine.generate([{"role": "user", "content": "hi"}], plan="base")


def test_a_prompt_longer_than_the_context_is_refused_with_the_counts(engine):
    assert engine.context_length == 256
    fits = engine.generate([5] * 255, plan="base", max_new_tokens=9)
    assert (len(fits.token_ids), fits.finish_reason) == (1, "length")
    with pytest.raises(PromptTooLongError, match=r"255 .*256.* has 256"):
        engine.generate([5] * 256, plan="base")
    with pytest.raises(PromptTooLongError, match="257"):
        engine.logits(torch.full((1, 257), 5), plan="base")
    with pytest.raises(PromptTooLongError, match="258"):
        engine.score([5] * 250, [6] * 8, plan="base")


def test_the_end_of_the_context_ends_the_answer(engine):
    answer = engine.generate([5] * 250, plan="base", max_new_tokens=100)
    assert (len(answer.token_ids), answer.finish_reason) == (6, "length")
    assert answer.usage.total_tokens == 256


def test_every_end_token_of_the_checkpoint_and_the_tokenizer_counts(text_model, byte_tokenizer):
    text_model.generation_config.eos_token_id = [5, 6]
    with LAGEngine(text_model, byte_tokenizer) as engine:
        request = engine._requests.one("a", "base", {})
        assert request.end_ids == {2, 5, 6}
        free = engine.generate("a", plan="base", max_new_tokens=8).token_ids
    text_model.generation_config.eos_token_id = [5, free[3]]
    with LAGEngine(text_model, byte_tokenizer) as engine:
        answer = engine.generate("a", plan="base", max_new_tokens=8)
    assert answer.finish_reason == "stop"
    assert answer.token_ids == free[: free.index(free[3]) + 1]


def test_a_stop_string_may_be_a_special_token(engine):
    request = engine._requests.one("a", "base", {"stop": ["<|user|>", "x"]})
    assert engine.tokenizer.convert_tokens_to_ids("<|user|>") in request.end_ids


def test_stop_strings_cut_what_is_generated(engine):
    free = engine.generate("Who?", plan="lag", max_new_tokens=40).text
    stop = free[5:8]
    cut = engine.generate("Who?", plan="lag", max_new_tokens=40, stop=[stop, "never"])
    assert cut.text == free[: free.index(stop)]
    assert cut.finish_reason == "stop"


def test_settings_are_shared_or_one_for_each_row(engine):
    options = {"temperature": [0.0, 0.9, 0.9], "seed": [None, 3, 4], "max_new_tokens": 5}
    together = engine.generate_batch(TEXTS, plans="lag", stop=["q", "z"], **options)
    for i, answer in enumerate(together):
        alone = {name: v[i] if isinstance(v, list) else v for name, v in options.items()}
        assert answer == engine.generate(TEXTS[i], plan="lag", stop=["q", "z"], **alone)
    per_row = engine.generate_batch(TEXTS, stop=[None, "a", ["b", "c"]], max_new_tokens=2)
    assert len(per_row) == 3
    assert engine.generate_batch([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": [1, 2]}, "seed"),
        ({"plans": ["lag"]}, "plans"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"temperature": [0.1, -1.0, 0.2]}, "temperature"),
    ],
)
def test_a_wrong_setting_of_a_batch_is_named(engine, options, message):
    with pytest.raises(GenerationError, match=message):
        engine.generate_batch(TEXTS, **options)


def test_one_string_is_not_a_batch(engine):
    with pytest.raises(GenerationError, match="one string"):
        engine.generate_batch("abc")


def test_a_seed_repeats_its_answer_and_no_seed_does_not(engine):
    def answer(seed):
        return engine.generate("a", temperature=1.5, seed=seed, max_new_tokens=12).token_ids

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)
    assert answer(None) != answer(None)


def test_checkpoint_sampling_is_offered_and_not_used(text_model, byte_tokenizer):
    config = text_model.generation_config
    config.do_sample, config.temperature, config.top_p = True, 0.6, 0.9
    with LAGEngine(text_model, byte_tokenizer) as engine:
        greedy = [engine.generate("a", plan="base", max_new_tokens=8).token_ids for _ in range(3)]
        offered = engine.checkpoint_sampling()
        assert (offered["temperature"], offered["top_p"]) == (0.6, 0.9)
        engine.generate("a", plan="base", max_new_tokens=2, **offered)
    assert len(set(greedy)) == 1


def test_the_trace_covers_every_token_the_model_read_and_is_off_by_default(engine):
    plan = engine.plan("lag", retrieve_k=3)
    assert engine.generate("Who?", plan=plan, max_new_tokens=5).trace is None
    answer = engine.generate("Who?", plan=plan, max_new_tokens=5, trace=True)
    read = (*answer.prompt_token_ids, *answer.token_ids[:-1])
    assert answer.trace.token_ids == read
    assert all(len(d.rows) == len(read) for d in answer.trace.decisions)
    assert {d.slot for d in answer.trace.decisions} == {"task", "knowledge"}
    assert answer.trace.summary()["slots"]["task"]["applied"] == 1.0


def test_a_row_that_ends_early_has_a_trace_of_its_own_tokens_only(engine):
    answers = engine.generate_batch(TEXTS, max_new_tokens=[2, 7, 4], trace=True)
    for answer in answers:
        n_read = len(answer.prompt_token_ids) + len(answer.token_ids) - 1
        assert all(len(d.rows) == n_read for d in answer.trace.decisions)


def test_the_base_plan_leaves_an_empty_trace(engine):
    answer = engine.generate("Who?", plan="base", max_new_tokens=3, trace=True)
    assert answer.trace.decisions == ()
    assert answer.trace.slots == ()


def test_flat_adapters_go_into_the_slots_of_their_kinds(engine):
    plan = engine.plan("oracle", adapters=["doc3", "task1"])
    assert plan == Plan("oracle", Pinned(["task1"]), Pinned(["doc3"]))
    weighted = engine.plan("oracle", adapters={"doc3": 0.5, "task1": 2.0})
    assert weighted == Plan("oracle", Pinned({"task1": 2.0}), Pinned({"doc3": 0.5}))
    nested = engine.plan("oracle", adapters={"task": ["task1"], "knowledge": ["doc3"]})
    assert nested == plan
    assert engine.plan("prag", adapters="doc0").knowledge == Pinned("doc0")
    with pytest.raises(AdapterNotFoundError, match="nobody"):
        engine.plan("oracle", adapters=["nobody"])
    with pytest.raises(PlanError):
        engine.plan("prag", adapters=["task1", "doc0"])


def test_an_adapter_that_is_not_there_is_an_error_and_not_the_base(engine):
    plan = Plan("custom", task=Pinned("gone"))
    with pytest.raises(AdapterNotFoundError, match="gone"):
        engine.generate("a", plan=plan)
    with pytest.raises(AdapterNotFoundError, match="gone"):
        next(engine.stream("a", plan=plan))
    assert engine.generate("a", max_new_tokens=1).text is not None


def test_without_a_library_only_plans_without_adapters_run(text_model, byte_tokenizer):
    with LAGEngine(text_model, byte_tokenizer) as engine:
        for plan in ("base", "rag"):
            assert engine.generate("a", plan=plan, max_new_tokens=2).usage.completion_tokens == 2
        with pytest.raises(PlanError, match="library"):
            engine.generate("a")
        with pytest.raises(PlanError, match="plan"):
            engine.generate("a", plan=3)
        with pytest.raises(PlanError, match="modes"):
            engine.generate("a", plan="lagg")


def test_a_library_grows_and_shrinks_under_a_living_engine(engine, text_library, random_adapter):
    plan = Plan("custom", task=Routed(LAG()))
    before = engine.logits(torch.tensor([[1, 70, 71, 72]]), plan=plan)
    strong = random_adapter(engine.model, "task", 50, scaling=40.0)
    text_library.add(strong, name="new", kind="task")
    grown = engine.generate("a", plan=engine.plan("lag"), max_new_tokens=3, trace=True)
    assert "new" in grown.trace.decisions[0].names
    pinned = engine.logits(torch.tensor([[1, 70, 71, 72]]), plan=Plan("custom", task=Pinned("new")))
    assert not torch.equal(pinned, before)
    text_library.remove("new")
    assert torch.equal(engine.logits(torch.tensor([[1, 70, 71, 72]]), plan=plan), before)
    with pytest.raises(AdapterNotFoundError, match="new"):
        engine.generate("a", plan=Plan("custom", task=Pinned("new")))


def test_an_engine_sees_what_another_writer_adds(text_model, byte_tokenizer, text_library):
    with LAGEngine(text_model, byte_tokenizer, text_library.path) as engine:
        assert engine.library.is_read_only
        text_library.rename("task0", "first")
        plan = engine.plan("oracle", adapters=["first", "doc0"])
        assert engine.generate("a", plan=plan, max_new_tokens=2).plan is plan


def test_closing_gives_the_model_back_bit_for_bit(text_model, byte_tokenizer, text_library):
    ids = torch.tensor([[1, 70, 71, 72]])
    modules = dict(text_model.named_modules())
    text_model.train()
    with torch.no_grad():
        before = text_model(ids).logits
    with LAGEngine(text_model, byte_tokenizer, text_library.path) as engine:
        engine.generate("a", max_new_tokens=2)
        assert torch.equal(engine.logits(ids, plan="base"), before)
        assert not torch.equal(engine.logits(ids, plan="lag"), before)
        library = engine.library
        assert not engine.is_closed
    assert engine.is_closed
    engine.close()
    with torch.no_grad():
        assert torch.equal(text_model(ids).logits, before)
    assert dict(text_model.named_modules()) == modules
    assert text_model.training
    assert "closed" in repr(library)
    assert "closed" not in repr(text_library)
    with pytest.raises(GenerationError, match="closed"):
        engine.generate("a", plan="base")


def test_an_engine_that_is_dropped_gives_the_model_back(text_model, byte_tokenizer, text_library):
    modules = dict(text_model.named_modules())
    engine = LAGEngine(text_model, byte_tokenizer, text_library)
    assert dict(text_model.named_modules()) != modules
    engine.generate("a", max_new_tokens=1)
    del engine
    assert dict(text_model.named_modules()) == modules


def test_a_model_carries_one_engine_with_a_library_at_a_time(engine, text_model, byte_tokenizer):
    with pytest.raises(ModelError, match="routed already"):
        LAGEngine(text_model, byte_tokenizer, engine.library)
    assert engine.generate("a", max_new_tokens=1).usage.completion_tokens == 1


def test_a_library_of_another_model_is_refused(
    tmp_path, make_text_model, byte_tokenizer, random_adapter
):
    ours, other = make_text_model(), make_text_model(intermediate=48)
    with AdapterLibrary.create(tmp_path / "other", base_model=other) as library:
        from_other = tmp_path / "other"
        library.add(random_adapter(other, "knowledge", 1), name="x", kind="knowledge")
    with pytest.raises(AdapterMismatchError):
        LAGEngine(ours, byte_tokenizer, from_other)
    AdapterLibrary.open(from_other).close()


def test_a_library_made_for_another_name_needs_consent(tmp_path, text_model, byte_tokenizer):
    text_model.config._name_or_path = "org/our-model"
    path = tmp_path / "theirs"
    AdapterLibrary.create(path, base_model=None, base_name="org/their-model").close()
    with pytest.raises(AdapterMismatchError, match="their-model"):
        LAGEngine(text_model, byte_tokenizer, path)
    with LAGEngine(text_model, byte_tokenizer, path, allow_other_base=True) as engine:
        assert engine.name == "org/our-model"


def test_a_mistyped_option_of_a_plan_is_told(engine):
    with pytest.raises(PlanError, match="Did you mean 'retrieve_k'"):
        engine.plan("lag", retreive_k=5)


def test_a_prompt_that_is_too_long_is_an_error_and_no_warning_besides(engine, caplog, monkeypatch):
    monkeypatch.setattr(engine.tokenizer, "model_max_length", 8)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    engine.tokenize_messages([{"role": "user", "content": "a" * 20}])
    assert not caplog.records
