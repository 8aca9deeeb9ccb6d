from __future__ import annotations

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import BaseModel

from lag_engine import MODES, Plan, PlanError
from lag_integrations.langchain import ParametricRetriever, create_parametric_documents_chain
from lag_integrations.modes import DOCUMENTS

PROMPT = ChatPromptTemplate.from_messages([("user", "{context}{input}")])


def with_adapter(name, text="text"):
    metadata = {"adapter_id": name, "document_id": f"doc-{name}"}
    return Document(f"{text} of {name}", metadata=metadata)


DOCUMENT_LIST = [with_adapter("a"), with_adapter("b")]
WITHOUT = Document("plain text", metadata={"document_id": "plain"})


@pytest.fixture(autouse=True)
def library(engine, scripted_library):
    """The engine's, with an adapter for each document of the list."""
    engine.library = scripted_library(("a", "1"), ("b", "1", "b-by-id"))
    return engine.library


def make_chain(llm, **options):
    options = {"context_template": "Text: {context}\n\n", **options}
    return create_parametric_documents_chain(llm, PROMPT, **options)


def ask(chain, documents, config=None):
    return chain.invoke({"input": "Q?", "context": documents}, config)


def prompt_and_plan(engine):
    messages, options = engine.calls[-1]
    return messages[-1]["content"], options["plan"]


@pytest.mark.parametrize(
    ("documents", "prompt", "plan"),
    [
        ("text", "Text: text of a\n\ntext of b\n\nQ?", Plan.from_mode("rag+lag")),
        ("adapters", "Q?", Plan.from_mode("prag+lag", adapters=["a", "b"])),
        (
            "both",
            "Text: text of a\n\ntext of b\n\nQ?",
            Plan.from_mode("rag+prag+lag", adapters=["a", "b"]),
        ),
        (None, "Q?", Plan.from_mode("lag")),
    ],
)
def test_documents_reach_the_model_as_asked(llm, engine, documents, prompt, plan):
    ask(make_chain(llm, documents=documents), DOCUMENT_LIST)
    assert prompt_and_plan(engine) == (prompt, plan)


def test_the_mode_of_the_call_decides_when_documents_is_left_open(llm, engine):
    chain = make_chain(llm)
    ask(chain, DOCUMENT_LIST, {"configurable": {"lag_mode": "prag"}})
    assert prompt_and_plan(engine) == ("Q?", Plan.from_mode("prag", adapters=["a", "b"]))
    ask(chain, DOCUMENT_LIST, {"configurable": {"lag_mode": "rag"}})
    assert prompt_and_plan(engine)[1] == Plan.from_mode("rag")
    assert prompt_and_plan(engine)[0].startswith("Text: text of a")


def test_oracle_takes_its_task_adapter_from_the_config(llm, engine):
    config = {"configurable": {"lag_mode": "oracle", "lag_adapters": {"task": ["qa"]}}}
    ask(make_chain(llm), DOCUMENT_LIST, config)
    expected = Plan.from_mode("oracle", adapters={"task": ["qa"], "knowledge": ["a", "b"]})
    assert prompt_and_plan(engine) == ("Q?", expected)


def test_knowledge_adapters_of_the_request_replace_the_documents(llm, engine):
    config = {"configurable": {"lag_mode": "prag", "lag_adapters": ["wrong"]}}
    ask(make_chain(llm), [*DOCUMENT_LIST, WITHOUT], config)
    assert prompt_and_plan(engine) == ("Q?", Plan.from_mode("prag", adapters=["wrong"]))


def test_a_document_without_an_adapter_falls_back_to_text_visibly(llm, engine):
    answer = ask(make_chain(llm, documents="adapters"), [with_adapter("a"), WITHOUT])
    prompt, plan = prompt_and_plan(engine)
    assert prompt == "Text: plain text\n\nQ?"
    assert plan == Plan.from_mode("prag+lag", adapters=["a"])
    assert answer.response_metadata["lag_documents"] == {
        "mode": "prag+lag",
        "used_as": "adapters",
        "adapters": ["a"],
        "text": ["plain"],
        "fallback": ["plain"],
    }


def test_without_any_usable_adapter_the_mode_becomes_its_text_counterpart(llm, engine):
    stale = with_adapter("a")
    stale.metadata["adapter_status"] = "stale"
    answer = ask(make_chain(llm, documents="adapters"), [stale, WITHOUT])
    assert prompt_and_plan(engine)[1] == Plan.from_mode("rag+lag")
    record = answer.response_metadata["lag_documents"]
    assert record["mode"] == "rag+lag"
    assert record["fallback"] == ["doc-a", "plain"]


def test_passages_of_one_document_pin_its_adapter_once(llm, engine):
    ask(make_chain(llm, documents="adapters"), [with_adapter("a"), with_adapter("a", "more")])
    assert prompt_and_plan(engine)[1] == Plan.from_mode("prag+lag", adapters=["a"])


def test_documents_as_text_give_the_stock_chains_prompt(llm, engine):
    inputs = {"input": "Q?", "context": DOCUMENT_LIST}
    create_stuff_documents_chain(llm.with_mode("rag+lag"), PROMPT).invoke(inputs)
    stock = prompt_and_plan(engine)
    create_parametric_documents_chain(llm, PROMPT, documents="text").invoke(inputs)
    assert prompt_and_plan(engine) == stock


def test_bound_arguments_of_the_model_are_kept(llm, engine):
    ask(make_chain(llm.bind(mode="base", max_tokens=7), documents="adapters"), DOCUMENT_LIST)
    assert prompt_and_plan(engine)[1] == Plan.from_mode("prag", adapters=["a", "b"])
    assert engine.calls[-1][1]["max_new_tokens"] == 7


def test_an_output_parser_gives_a_string(llm):
    chain = make_chain(llm, documents="text", output_parser=StrOutputParser())
    assert ask(chain, DOCUMENT_LIST) == "Paris is fine"


def test_text_with_braces_is_not_a_template(llm, engine):
    ask(make_chain(llm, documents="text"), [Document("{input} {x}")])
    assert prompt_and_plan(engine)[0] == "Text: {input} {x}\n\nQ?"


async def test_streaming_is_piecewise_and_ends_with_the_metadata(llm):
    chain, inputs = make_chain(llm, documents="adapters"), {"input": "Q?", "context": DOCUMENT_LIST}
    chunks = list(chain.stream(inputs))
    assert [c.content for c in chunks] == ["Paris", " is", " fine"]
    assert chunks[-1].response_metadata["lag_documents"]["adapters"] == ["a", "b"]
    chunks = [chunk async for chunk in chain.astream(inputs)]
    assert [c.content for c in chunks] == ["Paris", " is", " fine"]


def test_trap_in_the_stock_retrieval_chain_the_trace_is_not_lost(llm, engine):
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(DOCUMENT_LIST)
    retriever = ParametricRetriever(source=store, k=2)
    chain = create_retrieval_chain(retriever, make_chain(llm, documents="adapters"))
    result = chain.invoke({"input": "Q?"})
    assert len(result["context"]) == 2
    assert result["answer"].content == "Paris is fine"
    assert result["answer"].response_metadata["lag_routing"]["mode"] == "prag+lag"
    assert set(result["answer"].response_metadata["lag_documents"]["adapters"]) == {"a", "b"}


def test_a_document_is_known_to_the_models_library_without_our_retriever(llm, engine):
    plain = [Document("x", id="b-by-id"), Document("y", metadata={"document_id": "b-by-id"})]
    ask(make_chain(llm, documents="adapters"), plain)
    assert prompt_and_plan(engine)[1] == Plan.from_mode("prag+lag", adapters=["b"])


@pytest.mark.parametrize("rev", ["0", "1"])
def test_an_adapter_that_is_not_the_indexed_one_is_text_without_our_retriever(llm, engine, rev):
    document = Document("old", metadata={"adapter_id": "a", "adapter_rev": rev})
    answer = ask(make_chain(llm, documents="adapters"), [document])
    assert answer.response_metadata["lag_documents"]["fallback"] == (["0"] if rev == "0" else [])


def test_a_model_without_a_library_takes_every_document_as_text(llm, engine):
    engine.library = None
    answer = ask(make_chain(llm, documents="adapters"), DOCUMENT_LIST)
    assert answer.response_metadata["lag_documents"]["fallback"] == ["doc-a", "doc-b"]


def test_a_chain_of_the_users_own_can_bind_the_adapters(llm, engine):
    def parametric(documents):
        return PROMPT | llm.bind(
            mode="prag", adapters=[d.metadata["adapter_id"] for d in documents]
        )

    chain = RunnableLambda(
        lambda inputs: parametric(inputs["context"]).invoke(inputs | {"context": ""})
    )
    ask(chain, DOCUMENT_LIST)
    assert prompt_and_plan(engine) == ("Q?", Plan.from_mode("prag", adapters=["a", "b"]))


class Answer(BaseModel):
    """An answer."""

    city: str


WRAPPED = {
    "bound": lambda m: m.bind(max_tokens=7),
    "with tools": lambda m: m.bind_tools([Answer], tool_choice="auto"),
    "tools after bind": lambda m: m.bind(max_tokens=7).bind_tools([Answer]),
    "configured": lambda m: m.with_config(tags=["x"]),
    "retrying": lambda m: m.with_retry(stop_after_attempt=2),
    "structured": lambda m: m.with_structured_output(Answer, method="json_schema"),
    "structured, raw": lambda m: m.with_structured_output(Answer, include_raw=True),
    "a sequence": lambda m: m | StrOutputParser(),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_trap_a_wrapped_model_gets_its_documents(llm, engine, wrapped):
    engine.reply = '{"city": "Paris"}'
    ask(make_chain(WRAPPED[wrapped](llm), documents="adapters"), DOCUMENT_LIST)
    assert prompt_and_plan(engine)[1] == Plan.from_mode("prag+lag", adapters=["a", "b"])


def test_a_raw_answer_tells_what_became_of_the_documents(llm, engine):
    engine.reply = '{"city": "Paris"}'
    chain = make_chain(WRAPPED["structured, raw"](llm), documents="adapters")
    raw = ask(chain, DOCUMENT_LIST)["raw"]
    assert raw.response_metadata["lag_documents"]["adapters"] == ["a", "b"]


def test_settings_nearer_to_the_call_win_and_bound_ones_beat_the_config(llm, engine):
    mode = {"configurable": {"lag_mode": "prag"}}
    for model, config, expected in (
        (llm.with_mode("rag"), None, "rag"),
        (llm.with_mode("rag").with_config(mode), None, "prag"),
        (llm.with_config(mode), {"configurable": {"lag_mode": "rag"}}, "rag"),
        (llm.bind(mode="rag"), mode, "rag"),
    ):
        ask(make_chain(model), DOCUMENT_LIST, config)
        assert prompt_and_plan(engine)[1].mode == expected


def test_the_stock_chains_arguments_are_taken(llm, engine):
    arguments = {
        "output_parser": StrOutputParser(),
        "document_prompt": PromptTemplate.from_template("<{page_content}>"),
        "document_separator": "|",
        "document_variable_name": "documents",
    }
    prompt = ChatPromptTemplate.from_messages([("user", "{documents} {input}")])
    inputs = {"input": "Q?", "documents": DOCUMENT_LIST}
    stock = create_stuff_documents_chain(llm.with_mode("rag"), prompt, **arguments)
    ours = create_parametric_documents_chain(llm.with_mode("rag"), prompt, **arguments)
    assert ours.invoke(inputs) == stock.invoke(inputs)
    assert engine.calls[-1][0] == engine.calls[-2][0]


@pytest.mark.parametrize(
    "arguments", [{"document_variable_name": "other"}, {"context_template": "Text: "}]
)
def test_trap_a_prompt_without_a_place_for_the_text_is_refused(llm, arguments):
    with pytest.raises(PlanError, match="place for the documents' text"):
        make_chain(llm, documents="adapters", **arguments)


async def test_every_way_of_calling_gives_the_same(llm, engine):
    chain = make_chain(llm, documents="both")
    inputs = {"input": "Q?", "context": DOCUMENT_LIST}
    answers = [
        chain.invoke(inputs),
        await chain.ainvoke(inputs),
        *chain.batch([inputs, inputs]),
        *await chain.abatch([inputs, inputs]),
    ]
    assert len({a.content for a in answers}) == 1
    assert all(a.response_metadata == answers[0].response_metadata for a in answers)
    assert len({(str(m), o["plan"]) for m, o in engine.calls}) == 1


async def test_events_tell_what_was_applied(llm):
    chain = make_chain(llm, documents="adapters")
    inputs = {"input": "Q?", "context": DOCUMENT_LIST}
    events = [e async for e in chain.astream_events(inputs, version="v2")]
    (end,) = [e for e in events if e["event"] == "on_chat_model_end"]
    assert end["data"]["output"].response_metadata["lag_documents"]["adapters"] == ["a", "b"]


def test_another_model_is_refused():
    with pytest.raises(PlanError, match="FakeListChatModel"):
        create_parametric_documents_chain(FakeListChatModel(responses=["x"]), PROMPT)
    with pytest.raises(PlanError, match="RunnableSequence"):
        create_parametric_documents_chain(FakeListChatModel(responses=["x"]) | str, PROMPT)


def test_a_mode_that_cannot_use_documents_so_is_refused(llm):
    with pytest.raises(PlanError, match="Found 'arrow'"):
        ask(make_chain(llm.with_mode("arrow"), documents="adapters"), DOCUMENT_LIST)


@pytest.mark.parametrize("mode", DOCUMENTS)
def test_the_table_of_documents_agrees_with_the_plans(mode):
    named = {"Pinned", "Latent", "Generated"}
    knowledge_is_pinned = bool(named & {getattr(f, "__name__", "") for f in MODES[mode][1]})
    assert (DOCUMENTS[mode] in ("adapters", "both")) == knowledge_is_pinned
    assert (DOCUMENTS[mode] in ("text", "both")) == ("rag" in mode.split("+"))
