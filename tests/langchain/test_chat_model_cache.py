"""Two calls share a cached answer only if nothing that the answer depends on differs."""

from __future__ import annotations

import json

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.tools import tool

from lag_engine import Guide, Plan
from lag_integrations.langchain import LAGChatModel
from lag_integrations.model_files import find_model_files


@tool
def look_up(query: str) -> str:
    """Looks something up."""
    return query


@pytest.fixture
def cached(make_llm, engine):
    return make_llm(engine, cache=InMemoryCache(), mode="prag", adapters=["d1"])


VARIANTS = {
    "another mode": lambda m: m.invoke("Hi", mode="base"),
    "other adapters": lambda m: m.invoke("Hi", adapters=["d2"]),
    "other weights": lambda m: m.invoke("Hi", adapters={"d1": 0.5}),
    "bound adapters": lambda m: m.bind(adapters=["d3"]).invoke("Hi"),
    "configured adapters": lambda m: m.invoke("Hi", {"configurable": {"lag_adapters": ["d4"]}}),
    "a plan": lambda m: m.invoke("Hi", plan=Plan.from_mode("lag", retrieve_k=3)),
    "another plan": lambda m: m.invoke("Hi", plan=Plan.from_mode("lag", retrieve_k=4)),
    "a model made from it": lambda m: m.with_adapters(["d5"]).invoke("Hi"),
    "a copy": lambda m: m.model_copy(update={"adapters": ["d6"]}).invoke("Hi"),
    "stop strings": lambda m: m.invoke("Hi", stop=["x"]),
    "a temperature": lambda m: m.invoke("Hi", temperature=0.5, seed=1),
    "a seed": lambda m: m.invoke("Hi", temperature=0.5, seed=2),
    "tools": lambda m: m.bind_tools([look_up]).invoke("Hi"),
    "a choice": lambda m: m.bind_tools([look_up], tool_choice="any").invoke("Hi"),
    "a guide": lambda m: m.invoke("Hi", guide=Guide.regex("a+")),
    "another guide": lambda m: m.invoke("Hi", guide=Guide.regex("b+")),
    "log-probabilities": lambda m: m.invoke("Hi", logprobs=True),
    "more of the trace": lambda m: m.invoke("Hi", trace="full"),
}


def test_no_variant_is_answered_with_anothers_answer(cached, engine):
    for n_before, ask in enumerate(VARIANTS.values()):
        assert len(engine.calls) == n_before
        ask(cached)
        ask(cached)
    assert len(engine.calls) == len(VARIANTS)


async def test_an_answer_is_taken_from_the_cache_by_both_kinds_of_call(cached, engine):
    first = cached.invoke("Hi")
    again = await cached.ainvoke("Hi")
    assert len(engine.calls) == 1
    assert again.content == first.content
    assert again.response_metadata == first.response_metadata


def test_the_key_is_as_good_in_another_process(cached):
    key = json.loads(cached._get_llm_string(plan=Plan.from_mode("lag")))
    assert key["library_fingerprint"] == "first"
    assert key["call"]["plan"] == Plan.from_mode("lag").key
    assert " at 0x" not in json.dumps(key)


def test_the_shipped_library_is_in_the_key_before_the_model_is_loaded():
    params = LAGChatModel()._identifying_params
    assert params["library_fingerprint"]
    assert params["model_fingerprint"] == find_model_files("lag-tiny").fingerprint


def test_a_model_trained_anew_in_its_folder_has_another_key(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"first")
    llm = LAGChatModel(model=str(tmp_path))
    before = llm._get_llm_string()
    assert llm._get_llm_string() == before
    weights.write_bytes(b"second")
    assert llm._get_llm_string() != before


def test_a_hub_model_is_known_by_its_commit(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("c" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert find_model_files("owner/name").fingerprint == "c" * 40
    assert find_model_files("owner/other") is None
