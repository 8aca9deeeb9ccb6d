"""Faults of stock local models, and traps of LlamaIndex: a test for each, named after it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from llama_index.core import PromptTemplate, Settings
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool

from lag_engine import PromptTooLongError, tiny
from lag_integrations.adapter_index import Finding
from lag_integrations.llama_index import (
    LAGLLM,
    AdapterPostprocessor,
    LocalEmbedding,
    ParametricSynthesizer,
)
from lag_integrations.llama_index.nodes import annotate

QUESTIONS = [q.prompt for q in tiny.questions() if q.task == "dialogue"][:6]
DOCUMENT = tiny.documents()[0]


def user(text):
    return [ChatMessage(content=text)]


@pytest.fixture(scope="module")
def llm():
    return LAGLLM(model="lag-tiny", max_tokens=24)


class Fixed(BaseRetriever):
    """Finds the shipped world's first document."""

    def _retrieve(self, query_bundle):
        node = TextNode(id_=DOCUMENT.id, text=DOCUMENT.text)
        return [NodeWithScore(node=node, score=1.0)]


# HuggingFaceLLM's faults.


def test_double_bos_in_chat(llm):
    ids = llm.engine.tokenize_messages([{"role": "user", "content": QUESTIONS[0]}])
    assert ids.count(llm.engine.tokenizer.bos_token_id) == 1
    assert llm.chat(user(QUESTIONS[0])).raw["usage"]["prompt_tokens"] == len(ids)
    prompt = llm.engine.tokenizer.decode(ids)
    assert llm.complete(prompt, formatted=True).raw["usage"]["prompt_tokens"] == len(ids)


def test_system_prompt_dropped_in_complete_and_chat(llm):
    polite = llm.with_changes(system_prompt="Be kind.")
    plain = llm.chat(user("Hi")).raw["usage"]["prompt_tokens"]
    counts = [
        r.raw["usage"]["prompt_tokens"] for r in (polite.chat(user("Hi")), polite.complete("Hi"))
    ]
    assert counts[0] == counts[1] > plain


def test_completion_to_prompt_applied_in_complete_but_not_in_stream_complete(llm):
    framed = llm.with_changes(completion_to_prompt=lambda prompt: f"Say: {prompt}")
    whole = framed.complete("Rosa")
    *_, last = framed.stream_complete("Rosa")
    assert (whole.text, whole.raw["usage"]) == (last.text, last.raw["usage"])


def test_stop_max_tokens_and_every_other_argument_of_a_call_ignored(llm):
    whole = llm.complete(QUESTIONS[0]).text
    stop = whole[4:9]
    assert llm.complete(QUESTIONS[0], stop=[stop]).text == whole.split(stop)[0]
    assert llm.complete(QUESTIONS[0], max_tokens=2).raw["usage"]["completion_tokens"] == 2
    sampled = {llm.complete(QUESTIONS[0], temperature=5.0, seed=seed).text for seed in (1, 2)}
    assert len(sampled) == 2


async def test_stopping_looks_at_the_first_row_of_a_batch_only(llm):
    wholes = [llm.complete(question).text for question in QUESTIONS]
    stops = [whole[5:8] for whole in wholes]
    answers = await asyncio.gather(
        *(llm.acomplete(q, stop=[s]) for q, s in zip(QUESTIONS, stops, strict=True))
    )
    expected = [whole.split(stop)[0] for whole, stop in zip(wholes, stops, strict=True)]
    assert [answer.text for answer in answers] == expected


def test_no_usage(llm):
    usage = llm.complete(QUESTIONS[0]).raw["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_raw_keeps_tensors(llm):
    def values(item):
        if isinstance(item, dict | list | tuple):
            for part in item.values() if isinstance(item, dict) else item:
                yield from values(part)
        yield item

    raw = llm.complete(QUESTIONS[0], trace="full").raw
    assert not any(isinstance(value, torch.Tensor) for value in values(raw))


async def test_async_blocks_the_event_loop(llm):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await llm.achat(user(QUESTIONS[0]))
    ticking.cancel()
    assert ticks >= 3


def test_an_error_in_the_generation_thread_hangs_the_consumer(make_llm, scripted):
    broken = make_llm(scripted(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        list(broken.stream_complete("Hi"))


def test_not_function_calling(llm):
    assert llm.metadata.is_function_calling_model == llm.engine.supports_tools


def test_is_chat_model_is_false_so_query_engines_bypass_the_chat_template(make_llm, engine):
    llm = make_llm(engine, mode="rag")
    assert llm.metadata.is_chat_model
    RetrieverQueryEngine.from_args(Fixed(), llm=llm).query("Who?")
    assert [message["role"] for message in engine.prompt] == ["system", "user"]


# What users of local models ask about.


def test_streaming_confuses_delta_and_text(llm):
    responses = list(llm.stream_complete(QUESTIONS[0]))
    assert "".join(response.delta for response in responses) == responses[-1].text


def test_an_answer_runs_on_after_its_end_token(llm):
    response = llm.complete(QUESTIONS[0], max_tokens=200)
    assert response.raw["finish_reason"] == "stop"
    assert response.raw["usage"]["completion_tokens"] < 100


def test_one_object_is_not_thread_safe(llm):
    alone = [llm.complete(question).text for question in QUESTIONS]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda q: llm.complete(q).text, QUESTIONS)) == alone


def test_the_device_is_not_the_one_that_was_asked_for():
    assert LAGLLM(model="lag-tiny", device="cpu").engine.model.device == torch.device("cpu")


def test_adapters_cannot_be_chosen_per_request(llm):
    question = next(q for q in tiny.questions() if q.document_id == DOCUMENT.id)
    for name in (DOCUMENT.adapter, tiny.documents()[1].adapter):
        answer = llm.complete(question.prompt, mode="prag+lag", adapters=[name])
        (used,) = answer.raw["lag_routing"]["slots"]["knowledge"]["adapters"]
        assert used["adapter"] == name


def test_static_embeddings_are_refused(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = LAGLLM(model="lag-tiny").engine.tokenizer
    static = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path))
    embedding = LocalEmbedding(tmp_path, device="cpu")
    assert len(embedding.get_text_embedding("Rosa Sinclair")) == 8


def test_a_long_prompt_is_cut_silently(llm):
    with pytest.raises(PromptTooLongError, match="nothing is ever cut off"):
        llm.complete("Rosa Sinclair " * 1000)


# LlamaIndex's own traps.


def test_predict_passes_no_arguments_to_the_model(make_llm, engine):
    llm = make_llm(engine, mode="prag", adapters=["d1"])
    llm.predict(PromptTemplate("{x}"), x="Who?", adapters=["d2"])
    assert engine.options["plan"] == engine.plan("prag", adapters=["d1"])


def test_settings_tokenizer_is_gpts_unless_it_is_set(llm):
    Settings.tokenizer = llm.tokenizer
    try:
        assert Settings.tokenizer("Rosa Sinclair") == llm.tokenizer("Rosa Sinclair")
    finally:
        Settings.tokenizer = None


class Remover(BaseNodePostprocessor):
    """Removes every node."""

    def _postprocess_nodes(self, nodes, query_bundle=None):
        return []


def test_a_postprocessor_that_removes_nodes_kills_the_answer(llm):
    synthesizer = ParametricSynthesizer(llm.with_mode("prag+lag"))
    ours = AdapterPostprocessor(library=llm.engine.library)
    engines = [
        RetrieverQueryEngine(Fixed(), synthesizer, node_postprocessors=[postprocessor])
        for postprocessor in (Remover(), ours)
    ]
    assert str(engines[0].query("Who?")) == "Empty Response"
    assert str(engines[1].query("Who?")) != "Empty Response"


async def test_what_a_postprocessor_sets_in_the_context_is_lost_in_async(llm):
    synthesizer = ParametricSynthesizer(llm.with_mode("prag+lag"))
    postprocessor = AdapterPostprocessor(library=llm.engine.library)
    engine = RetrieverQueryEngine(Fixed(), synthesizer, node_postprocessors=[postprocessor])
    for response in (engine.query("Who?"), await engine.aquery("Who?")):  # nodes carry it instead
        assert response.source_nodes[0].metadata["adapter_id"] == DOCUMENT.adapter
        assert response.metadata["lag_documents"]["adapters"] == [DOCUMENT.adapter]


def test_node_identity_ends_at_synthesize_and_the_trace_is_lost(llm):
    engine = RetrieverQueryEngine(Fixed(), ParametricSynthesizer(llm.with_mode("prag+lag")))
    response = engine.query("Who?")
    assert response.metadata["lag_documents"]["adapters"] == [DOCUMENT.adapter]
    assert response.metadata["lag_routing"]["mode"] == "prag+lag"
    assert [n.node.node_id for n in response.source_nodes] == [DOCUMENT.id]


def test_adapter_metadata_leaks_into_prompt_and_embedding():
    node = TextNode(text="About it.")
    annotate(node, Finding("current", "doc-a", "r1"))
    for mode in (MetadataMode.LLM, MetadataMode.EMBED):
        assert node.get_content(mode) == "About it."


def test_list_metadata_of_several_adapters_is_rejected_by_llama_index():
    node = TextNode(text="About it.")
    annotate(node, Finding("current", "doc-a", "r1"))
    assert all(isinstance(node.metadata[key], str) for key in ("adapter_id", "adapter_rev"))


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
def test_the_choice_of_agent_hangs_on_metadata(make_llm, engine):
    tool = FunctionTool.from_defaults(lambda x: x, name="echo", description="Echoes.")
    workflow = AgentWorkflow.from_tools_or_functions([tool], llm=make_llm(engine))
    (agent,) = workflow.agents.values()
    assert isinstance(agent, FunctionAgent)


async def test_real_async_streaming_reaches_a_function_agent_piece_by_piece(make_llm, slow_engine):
    slow_engine.replies = ["one two three"]
    loop_thread, seen = threading.get_ident(), []
    stream = await make_llm(slow_engine).astream_chat_with_tools([], user_msg="Hi")
    async for response in stream:
        seen.append((response.delta, threading.get_ident() == loop_thread))
    assert seen == [("one", True), (" two", True), (" three", True), ("", True)]
