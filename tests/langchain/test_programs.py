"""Retrieval programs that gain RAG+LAG and PRAG+LAG by a line or two, and answer better for it."""

from __future__ import annotations

import difflib
import importlib
import sys
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langgraph.checkpoint.memory import InMemorySaver

from lag_engine import AdapterLibrary, ToolCall, tiny
from lag_integrations.chroma import close_client
from lag_integrations.engines import EngineKey, release_engine
from lag_integrations.langchain import BM25Retriever
from lag_integrations.langchain.demo import pick_questions

PROGRAMS = Path(__file__).parent / "programs"
QUESTIONS = list(pick_questions(4))


@pytest.fixture(scope="module")
def program():
    """Imports a program by its name, as if it were run in its folder."""
    sys.path.insert(0, str(PROGRAMS))
    yield importlib.import_module
    sys.path.remove(str(PROGRAMS))


@pytest.fixture(scope="module")
def retriever(program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    store = program("library_of_pages").open_store(folder)
    yield store.as_retriever(search_kwargs={"k": 1})
    close_client(folder)


@pytest.fixture(scope="module", autouse=True)
def tiny_is_released_afterwards():
    yield
    release_engine(EngineKey("lag-tiny"))


class WrongRetriever(BaseRetriever):
    """Finds the next page of the same kind as the right one."""

    def _get_relevant_documents(self, query, *, run_manager):
        asked = next(q for q in QUESTIONS if q.prompt == query)
        kind = next(d.kind for d in tiny.documents() if d.id == asked.document_id)
        same = [d for d in tiny.documents() if d.kind == kind]
        right = next(i for i, d in enumerate(same) if d.id == asked.document_id)
        wrong = same[(right + 1) % len(same)]
        return [Document(wrong.text, id=wrong.id, metadata={"title": wrong.title})]


def share_right(chain, config=None):
    answers = [chain.invoke({"input": q.prompt}, config)["answer"] for q in QUESTIONS]
    return sum(a.strip() == q.answer for a, q in zip(answers, QUESTIONS, strict=True)) / len(
        answers
    )


def changed_lines(before, after):
    """The lines that replace or remove one, imports apart, and the import lines."""
    texts = [(PROGRAMS / f"{name}.py").read_text().splitlines() for name in (before, after)]
    diff = list(difflib.unified_diff(*texts, lineterm="", n=0))[2:]
    new = [line[1:] for line in diff if line.startswith("+") and line[1:].strip()]
    old = [line[1:] for line in diff if line.startswith("-") and line[1:].strip()]
    is_import = [line for line in new if line.startswith("from ")]
    changed = [line.strip() for line in new if not line.startswith("from ")]
    assert len(changed) == len([line for line in old if not line.startswith("from ")])
    return changed, is_import


@pytest.mark.parametrize(
    ("before", "after", "n_lines"),
    [
        ("stock", "rag_lag", 1),
        ("stock", "prag_lag", 2),
        ("rag_lag", "prag_lag", 2),
        ("lcel_rag_lag", "lcel_prag_lag", 2),
        ("agent_rag_lag", "agent_prag_lag", 1),
    ],
)
def test_a_program_changes_by_a_line_or_two_and_an_import(before, after, n_lines):
    changed, imports = changed_lines(before, after)
    assert len(changed) == n_lines
    assert len(imports) == 1


def test_rag_lag_and_prag_lag_answer_better_than_text_alone_and_not_from_wrong_pages(
    program, retriever
):
    rag_lag, prag_lag = program("rag_lag"), program("prag_lag")
    text_alone = share_right(rag_lag.make_chain(retriever), {"configurable": {"lag_mode": "rag"}})
    shares = [share_right(p.make_chain(retriever)) for p in (rag_lag, prag_lag)]
    wrong = [share_right(p.make_chain(WrongRetriever())) for p in (rag_lag, prag_lag)]
    assert min(shares) > 0.6
    assert max(text_alone, *wrong) < 0.3


def test_bm25_stands_where_chroma_stood(program):
    pages = program("library_of_pages").load_pages()
    chain = program("prag_lag").make_chain(BM25Retriever.from_documents(pages, k=1))
    assert share_right(chain) > 0.6


def test_the_stock_program_answers_far_less_well(program, retriever):
    one_by_one = {"max_concurrency": 1}  # its pipeline is not made for threads
    stock = share_right(program("stock").make_chain(retriever), one_by_one)
    assert stock + 0.25 < share_right(program("rag_lag").make_chain(retriever))


@pytest.mark.parametrize("name", ["rag_lag", "prag_lag"])
def test_the_pipe_answers_as_the_chain_does(program, retriever, name):
    questions = [question.prompt for question in QUESTIONS[::4]]
    pipe = program(f"lcel_{name}").make_chain(retriever)
    chain = program(name).make_chain(retriever)
    answers = [found["answer"] for found in chain.batch([{"input": q} for q in questions])]
    assert pipe.batch(questions) == answers


class SearchingEngine:
    """Stands before a scripted engine: it searches once, then answers."""

    def __init__(self, engine):
        self.engine = engine
        self.search = ToolCall(
            id="call_1", name="search", arguments={"query": "Rosa Sinclair [SEP] occupation"}
        )

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def stream(self, messages, **options):
        has_searched = messages[-1]["role"] == "tool"
        self.engine.tool_calls = () if has_searched else (self.search,)
        self.engine.reply = "court nurse" if has_searched else ""
        yield from self.engine.stream(messages, **options)

    def generate(self, messages, **options):
        return list(self.stream(messages, **options))[-1].generation


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("name", "mode", "reads"),
    [("rag_lag", "lag", "court nurse"), ("prag_lag", "prag+lag", "Found: ")],
)
async def test_trap_an_agents_documents_reach_its_model_by_the_tool_alone(
    program, retriever, make_llm, engine, on_tiny, name, mode, reads, checkpointed
):
    engine.library = on_tiny
    llm = make_llm(SearchingEngine(engine))
    options = {"checkpointer": InMemorySaver()} if checkpointed else {}
    agent = program(f"agent_{name}").make_agent(llm, retriever, **options)
    config = {"configurable": {"thread_id": "1"}}
    asked = {"messages": [("user", "What is the occupation of Rosa Sinclair?")]}
    for result in (agent.invoke(asked, config), await agent.ainvoke(asked, config)):
        messages, asked_for = engine.calls[-1]
        assert asked_for["plan"].mode == mode
        assert reads in messages[-1]["content"]
        assert result["messages"][-1].content == "court nurse"
    record = result["messages"][-1].response_metadata.get("lag_documents", {})
    assert record.get("adapters", []) == (["doc-rosa-sinclair"] if name == "prag_lag" else [])


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
def test_trap_an_agents_trace_stands_on_one_streamed_message_and_in_its_checkpoint(
    program, retriever, make_llm, engine, on_tiny
):
    engine.library = on_tiny
    llm, options = make_llm(SearchingEngine(engine)), {"checkpointer": InMemorySaver()}
    agent = program("agent_prag_lag").make_agent(llm, retriever, **options)
    config = {"configurable": {"thread_id": "1"}}
    asked = {"messages": [("user", "What is the occupation of Rosa Sinclair?")]}
    streamed = list(agent.stream(asked, config, stream_mode="messages"))
    told = [c.response_metadata["lag_documents"] for c, _ in streamed if applied(c)]
    kept = agent.get_state(config).values["messages"][-1].response_metadata
    assert told == [kept["lag_documents"]]
    assert kept["lag_routing"]["mode"] == "prag+lag"


def applied(message):
    return message.response_metadata.get("lag_documents", {}).get("adapters")


@pytest.fixture(scope="module")
def on_tiny():
    """The shipped library."""
    with AdapterLibrary.open(tiny.library_path(), read_only=True) as library:
        yield library
