"""ParametricSynthesizer over a scripted engine: what is pinned, what is read, what is told."""

from __future__ import annotations

import pytest
from llama_index.core import PromptTemplate, Settings
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import BaseModel

from lag_engine import LagError, Plan, PlanError
from lag_integrations.llama_index import ParametricSynthesizer

QA = PromptTemplate("Text: {context_str}\n\n{query_str}")


def found(*names, **metadata):
    return [
        NodeWithScore(node=TextNode(id_=n, text=f"About {n}.", metadata=dict(metadata)), score=1.0)
        for n in names
    ]


@pytest.fixture
def library(make_library):
    """Current adapters of the documents a and b."""
    return make_library(("doc-a", "a", "r1"), ("doc-b", "b", "r1"))


@pytest.fixture
def make(make_llm, engine, library):
    """Makes a synthesizer in a mode."""
    engine.library = library

    def make(mode="prag+lag", **arguments):
        llm = make_llm(engine, mode=mode)
        return ParametricSynthesizer(llm, **{"text_qa_template": QA, **arguments})

    return make


def user(engine):
    return engine.prompt[-1]["content"]


def test_adapters_are_pinned_and_the_prompt_is_free_of_text(make, engine):
    response = make().synthesize("Who?", found("a", "b"))
    assert engine.options["plan"] == Plan.from_mode("prag+lag", adapters=["doc-a", "doc-b"])
    assert user(engine) == "Who?"
    assert str(response) == "Paris is fine"


@pytest.mark.parametrize(
    ("documents", "mode", "prompt"),
    [
        ("text", "rag+lag", "Text: About a.\n\nWho?"),
        ("adapters", "prag+lag", "Who?"),
        ("both", "rag+prag+lag", "Text: About a.\n\nWho?"),
    ],
)
async def test_documents_say_how_nodes_reach_the_model(make, engine, documents, mode, prompt):
    synthesizer = make("lag", documents=documents)
    responses = [
        synthesizer.synthesize("Who?", found("a")),
        await synthesizer.asynthesize("Who?", found("a")),
    ]
    for (_, options), response in zip(engine.calls, responses, strict=True):
        assert options["plan"].mode == mode
        assert response.metadata["lag_documents"]["mode"] == mode
    assert user(engine) == prompt


def test_sources_and_metadata_are_kept_beside_the_trace(make, json_able):
    nodes = found("a", "b", title="T")
    before = [node.model_dump() for node in nodes]
    response = make().synthesize("Who?", nodes, additional_source_nodes=found("c"))
    assert response.source_nodes[:2] == nodes
    assert [node.model_dump() for node in nodes] == before
    assert response.metadata["a"] == {"title": "T"}
    assert response.metadata["lag_routing"]["mode"] == "prag+lag"
    assert response.metadata["lag_documents"]["adapters"] == ["doc-a", "doc-b"]
    assert json_able(response.metadata)


def test_a_node_without_a_current_adapter_is_read_as_text_visibly(make, engine):
    stale = found("b", adapter_id="doc-b", adapter_rev="r0")
    response = make().synthesize("Who?", [*found("a", "unknown"), *stale])
    assert user(engine) == "Text: About unknown.\n\nAbout b.\n\nWho?".replace(
        "About b.", "adapter_id: doc-b\nadapter_rev: r0\n\nAbout b."
    )
    record = response.metadata["lag_documents"]
    assert (record["adapters"], record["fallback"]) == (["doc-a"], ["unknown", "b"])


def test_without_any_adapter_the_mode_becomes_its_text_counterpart(make, engine):
    response = make().synthesize("Who?", found("x"))
    assert engine.options["plan"].mode == "rag+lag"
    assert response.metadata["lag_documents"]["used_as"] == "text"


def test_no_nodes_are_answered_as_core_does_without_the_model(make, engine):
    response = make().synthesize("Who?", [])
    assert str(response) == "Empty Response"
    assert engine.calls == []
    assert "".join(make(streaming=True).synthesize("Who?", []).response_gen) == "Empty Response"
    assert str(make(empty_response="Nothing.").synthesize("Who?", [])) == "Nothing."


async def test_no_nodes_are_answered_as_core_does_in_async_too(make, engine):
    assert str(await make().asynthesize("Who?", [])) == "Empty Response"
    stream = await make(streaming=True).asynthesize("Who?", [])
    assert "".join([t async for t in stream.async_response_gen()]) == "Empty Response"
    assert engine.calls == []


async def test_streams_tell_their_routing_when_they_end(make):
    synthesizer = make(streaming=True)
    response = synthesizer.synthesize("Who?", found("a"))
    assert "lag_routing" not in response.metadata
    assert response.metadata["lag_documents"]["adapters"] == ["doc-a"]
    assert "".join(response.response_gen) == "Paris is fine"
    assert response.metadata["lag_routing"]["mode"] == "prag+lag"
    stream = await synthesizer.asynthesize("Who?", found("a"))
    assert "".join([token async for token in stream.async_response_gen()]) == "Paris is fine"
    assert stream.metadata["lag_routing"]["mode"] == "prag+lag"


class Answer(BaseModel):
    """An answer."""

    name: str


async def test_structured_answers_are_guided_and_keep_their_adapters(make, engine):
    engine.replies = ['{"name": "Paris"}']
    synthesizer = make(output_cls=Answer)
    for response in (
        synthesizer.synthesize("Who?", found("a")),
        await synthesizer.asynthesize("Who?", found("a")),
    ):
        assert response.response == Answer(name="Paris")
        assert response.metadata["lag_routing"]["mode"] == "prag+lag"
    assert "guide" in engine.options


def test_structured_answers_do_not_stream(make):
    with pytest.raises(LagError, match="either `streaming` or `output_cls`"):
        make(streaming=True, output_cls=Answer)


def test_other_models_are_refused():
    with pytest.raises(PlanError, match="Found a MockLLM"):
        ParametricSynthesizer(MockLLM())


def test_prompts_can_be_seen_and_replaced(make, engine):
    synthesizer = make()
    assert synthesizer.get_prompts()["text_qa_template"].template == QA.template
    synthesizer.update_prompts({"simple_template": PromptTemplate("Q: {query_str}")})
    synthesizer.synthesize("Who?", found("a"))
    assert user(engine) == "Q: Who?"


def test_the_default_prompts_are_cores(make, engine):
    make("rag+lag", text_qa_template=None).synthesize("Who?", found("a"))
    assert "Context information is below" in user(engine)
    assert "About a." in user(engine)


def test_callback_managers_are_not_overwritten(make, make_llm, engine, library):
    mine = CallbackManager([LlamaDebugHandler(print_trace_on_end=False)])
    theirs = CallbackManager([LlamaDebugHandler(print_trace_on_end=False)])
    engine.library = library
    llm = make_llm(engine, mode="prag+lag", callback_manager=mine)
    synthesizer = ParametricSynthesizer(llm, callback_manager=theirs)
    synthesizer.synthesize("Who?", found("a"))
    assert llm.callback_manager is mine
    assert mine.handlers[0].get_event_pairs(CBEventType.LLM)
    assert theirs.handlers[0].get_event_pairs(CBEventType.SYNTHESIZE)
    assert not theirs.handlers[0].get_event_pairs(CBEventType.LLM)


def test_a_synthesizers_callbacks_hear_an_llm_that_has_none(make, engine):
    manager = CallbackManager([LlamaDebugHandler(print_trace_on_end=False)])
    synthesizer = make()
    llm = synthesizer._llm
    synthesizer.callback_manager = manager
    synthesizer.synthesize("Who?", found("a"))
    assert manager.handlers[0].get_event_pairs(CBEventType.LLM)
    assert not llm.callback_manager.handlers


class Fixed(BaseRetriever):
    """Finds the same nodes for every query."""

    def _retrieve(self, query_bundle):
        return found("a")


async def test_a_query_engine_takes_it_as_its_synthesizer(make, engine):
    query_engine = RetrieverQueryEngine(Fixed(), response_synthesizer=make())
    assert str(query_engine.query("Who?")) == "Paris is fine"
    response = await query_engine.aquery("Who?")
    assert response.metadata["lag_documents"]["adapters"] == ["doc-a"]
    assert [node.node.node_id for node in response.source_nodes] == ["a"]
    assert user(engine) == "Who?"


def test_settings_llm_is_the_default(make_llm, engine, library):
    engine.library = library
    Settings.llm = make_llm(engine, mode="prag+lag")
    try:
        ParametricSynthesizer().synthesize("Who?", found("a"))
    finally:
        Settings._llm = None
    assert engine.options["plan"].mode == "prag+lag"


def test_a_model_without_a_chat_template_reads_plain_text(make, engine):
    engine.tokenizer.chat_template = None
    make("rag+lag").synthesize("Who?", found("a"))
    assert engine.prompt == "Text: About a.\n\nWho?"
    stream = make("rag+lag", streaming=True).synthesize("Who?", found("a"))
    assert "".join(stream.response_gen) == "Paris is fine"
