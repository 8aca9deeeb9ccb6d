from __future__ import annotations

import pytest
from langchain_classic.chains import create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore

from lag_engine import MODES, Plan, PlanError
from lag_integrations.langchain import ParametricRetriever, create_parametric_documents_chain
from lag_integrations.modes import DOCUMENTS

PROMPT = ChatPromptTemplate.from_messages([("user", "{context}{input}")])


def with_adapter(name, text="text"):
    metadata = {"adapter_id": name, "document_id": f"doc-{name}"}
    return Document(f"{text} of {name}", metadata=metadata)


DOCUMENT_LIST = [with_adapter("a"), with_adapter("b")]
WITHOUT = Document("plain text", metadata={"document_id": "plain"})


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


def test_the_stock_retrieval_chain_takes_it(llm, engine):
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(DOCUMENT_LIST)
    retriever = ParametricRetriever(source=store, k=2)
    chain = create_retrieval_chain(retriever, make_chain(llm, documents="adapters"))
    result = chain.invoke({"input": "Q?"})
    assert len(result["context"]) == 2
    assert result["answer"].content == "Paris is fine"
    assert set(result["answer"].response_metadata["lag_documents"]["adapters"]) == {"a", "b"}


def test_another_model_is_refused():
    with pytest.raises(PlanError, match="FakeListChatModel"):
        create_parametric_documents_chain(FakeListChatModel(responses=["x"]), PROMPT)


def test_a_mode_that_cannot_use_documents_so_is_refused(llm):
    with pytest.raises(PlanError, match="Found 'arrow'"):
        ask(make_chain(llm.with_mode("arrow"), documents="adapters"), DOCUMENT_LIST)


@pytest.mark.parametrize("mode", DOCUMENTS)
def test_the_table_of_documents_agrees_with_the_plans(mode):
    knowledge_is_pinned = "Pinned" in [getattr(f, "__name__", "") for f in MODES[mode][1]]
    assert (DOCUMENTS[mode] in ("adapters", "both")) == knowledge_is_pinned
    assert (DOCUMENTS[mode] in ("text", "both")) == ("rag" in mode.split("+"))
