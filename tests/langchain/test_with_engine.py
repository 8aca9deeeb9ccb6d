"""The integration over the real engine: a random model, a library on disk, Chroma."""

from __future__ import annotations

import threading
from pathlib import Path

import chromadb
import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.prompts import ChatPromptTemplate
from pydantic import ValidationError

from lag_engine import LAGEngine, write_heat_map
from lag_integrations.engines import EngineKey, get_engine, release_engine
from lag_integrations.langchain import (
    LAGLLM,
    LAGChatModel,
    ParametricRetriever,
    create_parametric_documents_chain,
)
from lag_integrations.langchain.chroma import index_documents, open_collection

TEXTS = ("Rosa is a nurse.", "Hector is a teacher.", "The city is old.")


@pytest.fixture(scope="module")
def llm(on_disk):
    model = LAGChatModel(model=str(on_disk.model), library=str(on_disk.library), max_tokens=4)
    yield model
    release_engine(model.engine_key)


@pytest.fixture
def store(tmp_path):
    client = chromadb.PersistentClient(str(tmp_path))
    embeddings = DeterministicFakeEmbedding(size=8)
    store = open_collection(client, "texts", embeddings, embedding_name="fake")
    documents = [
        Document(text, id=f"d{i}", metadata={"document_id": f"d{i}"})
        for i, text in enumerate(TEXTS)
    ]
    index_documents(store, documents)
    return store


def make_chain(llm, store):
    prompt = ChatPromptTemplate.from_messages([("user", "{context}{input}")])
    chain = create_parametric_documents_chain(llm, prompt, context_template="Text: {context}\n\n")
    library = llm.engine.library
    return create_retrieval_chain(ParametricRetriever(source=store, k=1, library=library), chain)


def test_the_answer_is_the_engines(llm):
    answer = llm.invoke("Who is Rosa?")
    plan = llm.engine.plan("lag")
    messages = [{"role": "user", "content": "Who is Rosa?"}]
    generation = llm.engine.generate(messages, plan=plan, max_new_tokens=4, trace=True)
    assert answer.content == generation.text
    assert answer.usage_metadata["input_tokens"] == generation.usage.prompt_tokens
    routing = answer.response_metadata["lag_routing"]
    assert routing == {"mode": "lag", "plan": plan.key, **generation.trace.summary()}


async def test_every_way_of_calling_gives_the_same_answer(llm):
    whole = llm.invoke("Who is Rosa?").content
    assert "".join(c.content for c in llm.stream("Who is Rosa?")) == whole
    assert (await llm.ainvoke("Who is Rosa?")).content == whole
    assert "".join([c.content async for c in llm.astream("Who is Rosa?")]) == whole
    assert {a.content for a in llm.batch(["Who is Rosa?"] * 4)} == {whole}


async def test_the_completion_model_gives_the_engines_completions(llm):
    completions = LAGLLM(model=llm.model, library=llm.library, max_tokens=4)
    prompts = ["Rosa is", "The city"]
    texts = [llm.engine.generate(p, plan="lag", max_new_tokens=4).text for p in prompts]
    assert completions.batch(prompts) == texts
    assert await completions.abatch(prompts) == texts
    assert "".join(completions.stream("Rosa is")) == texts[0]
    assert completions.engine is llm.engine


@pytest.mark.parametrize(
    ("mode", "task", "knowledge"),
    [
        ("base", False, False),
        ("rag", False, False),
        ("lag", True, True),
        ("prag", False, True),
        ("rag+lag", True, False),
        ("prag+lag", True, True),
        ("rag+prag+lag", True, True),
    ],
)
def test_the_stock_chain_runs_in_every_mode(llm, store, mode, task, knowledge):
    config = {"configurable": {"lag_mode": mode}}
    result = make_chain(llm, store).invoke({"input": "Who is Rosa?"}, config)
    (document,) = result["context"]
    routing = result["answer"].response_metadata["lag_routing"]
    assert set(routing["slots"]) == {
        name for name, used in (("task", task), ("knowledge", knowledge)) if used
    }
    if "prag" in mode:
        (pinned,) = routing["slots"]["knowledge"]["adapters"]
        assert pinned["adapter"] == document.metadata["adapter_id"]
        assert pinned["share"] == 1.0
    has_text = result["answer"].response_metadata["lag_documents"]["text"] != []
    assert has_text == ("rag" in mode.split("+"))


def test_oracle_pins_both_slots(llm, store):
    adapters = {"task": ["qa"], "knowledge": ["doc-1"]}
    config = {"configurable": {"lag_mode": "oracle", "lag_adapters": adapters}}
    answer = make_chain(llm, store).invoke({"input": "Who?"}, config)["answer"]
    slots = answer.response_metadata["lag_routing"]["slots"]
    assert slots["task"]["adapters"][0]["adapter"] == "qa"
    assert slots["knowledge"]["adapters"][0]["adapter"] == "doc-1"


def test_counted_tokens_are_those_the_model_reads(llm):
    message = llm.invoke("Who is Rosa?")
    counted = llm.get_num_tokens_from_messages(llm._convert_input("Who is Rosa?").to_messages())
    assert counted == message.usage_metadata["input_tokens"]
    assert llm.get_num_tokens("Rosa") == len(llm.engine.tokenizer.tokenize("Rosa"))


def test_the_fingerprint_is_known_before_the_weights_are_loaded(llm, on_disk):
    unloaded = LAGChatModel(model="owner/not-there", library=str(on_disk.library))
    fingerprint = unloaded._identifying_params["library_fingerprint"]
    assert fingerprint == llm._identifying_params["library_fingerprint"]
    assert fingerprint is not None


def test_an_engine_is_loaded_once_for_all_threads(on_disk):
    key = EngineKey(str(on_disk.model), device="cpu")
    engines: list[LAGEngine] = []
    threads = [threading.Thread(target=lambda: engines.append(get_engine(key))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(engines) == 4
    assert len(set(map(id, engines))) == 1
    release_engine(key)
    assert engines[0].is_closed


def test_the_heat_map_is_a_picture_of_the_trace(llm, tmp_path):
    answer = llm.invoke("Who is Rosa?", trace="full")
    trace = answer.response_metadata["lag_routing"]["trace"]
    path = tmp_path / "pictures" / "routing.png"
    n_prompt_tokens = answer.usage_metadata["input_tokens"]
    write_heat_map(trace, path, title="Who is Rosa?", n_prompt_tokens=n_prompt_tokens)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux")
def test_the_bound_of_the_library_reaches_the_engine_and_no_answer(on_disk, llm, monkeypatch):
    seen = []
    load = LAGEngine.from_pretrained
    monkeypatch.setattr(
        LAGEngine, "from_pretrained", lambda *a, **k: seen.append(k) or load(*a, **k)
    )
    bounded = llm.with_changes(factor_cache_bytes=1 << 20)
    try:
        assert bounded.invoke("Who is Rosa?").content == llm.invoke("Who is Rosa?").content
        assert seen[-1]["factor_cache_bytes"] == 1 << 20
        assert bounded.engine is not llm.engine
        assert bounded._get_llm_string() == llm._get_llm_string()
    finally:
        release_engine(bounded.engine_key)
    with pytest.raises(ValidationError, match="factor_cache_bytes"):
        LAGChatModel(factor_cache_bytes=0)


def test_a_model_loads_its_engine_again_after_it_was_closed(on_disk):
    llm = LAGChatModel(model=str(on_disk.model), library=str(on_disk.library), max_tokens=3)
    try:
        before = llm.invoke("Who is Rosa?").content
        llm.engine.close()
        assert llm.invoke("Who is Rosa?").content == before
    finally:
        release_engine(llm.engine_key)
