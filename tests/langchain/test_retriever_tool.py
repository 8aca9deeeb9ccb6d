from __future__ import annotations

import json

import pytest
from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import create_retriever_tool
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from lag_engine import PlanError
from lag_integrations.langchain import tool_documents
from lag_integrations.langchain.retriever_tool import create_parametric_retriever_tool
from lag_integrations.langchain.tool_documents import adapters_of

READY = Document(
    "Text of A.",
    id="a",
    metadata={"title": "A", "adapter_id": "doc-a", "adapter_rev": "1", "adapter_status": "current"},
)
OTHER = Document(
    "Text of B.", id="b", metadata={"title": "B", "adapter_id": "doc-b", "adapter_rev": "1"}
)
STALE = Document(
    "Text of C.", id="c", metadata={"title": "C", "adapter_id": "doc-c", "adapter_status": "stale"}
)
WITHOUT = Document("Text of D.", id="d", metadata={"title": "D"})


@pytest.fixture
def use_tool_documents(scripted_library):
    """Uses them with a library of the current adapters, or another."""
    library = scripted_library(("doc-a", "1"), ("doc-b", "1"), ("doc-c", "2"))
    return lambda messages, **options: tool_documents.use_tool_documents(
        messages, **{"library": library, **options}
    )


class Fixed(BaseRetriever):
    documents: list[Document]

    def _get_relevant_documents(self, query, *, run_manager):
        return self.documents


def tool_over(*documents, **options):
    retriever = Fixed(documents=list(documents))
    return create_parametric_retriever_tool(retriever, "search", "Finds facts.", **options)


def call(tool):
    return tool.invoke({"type": "tool_call", "id": "1", "name": "search", "args": {"query": "q"}})


def conversation(*messages):
    return [HumanMessage("Q?"), AIMessage(""), *messages]


def retrieved(*documents, **options):
    return conversation(call(tool_over(*documents, **options)))


@pytest.mark.parametrize(
    ("documents", "content"),
    [
        ("text", "Text of A.\n\nText of C."),
        ("adapters", "Found: A, C.\n\nText of C."),
        ("both", "Text of A.\n\nText of C."),
    ],
)
async def test_documents_decides_what_the_model_reads(documents, content):
    tool = tool_over(READY, STALE, documents=documents)
    message = call(tool)
    assert message.content == content
    assert [d.page_content for d in message.artifact] == ["Text of A.", "Text of C."]
    assert await tool.ainvoke({"query": "q"}) == content


def test_as_text_it_reads_as_the_stock_tool_does():
    stock = create_retriever_tool(Fixed(documents=[READY, WITHOUT]), "search", "Finds facts.")
    ours = tool_over(READY, WITHOUT, documents="text")
    assert ours.invoke({"query": "q"}) == stock.invoke({"query": "q"})
    assert ours.args_schema is stock.args_schema


def test_nothing_found_is_said():
    assert call(tool_over()).content == "Found: nothing."


def test_the_retrievers_documents_are_not_marked():
    call(tool_over(READY))
    assert "lag_documents" not in READY.metadata


def as_plain_dicts(artifact):
    return json.loads(json.dumps([d.model_dump() for d in artifact]))


def after_a_checkpoint(artifact):
    serde = JsonPlusSerializer()
    return serde.loads_typed(serde.dumps_typed(artifact))


@pytest.mark.parametrize(
    "change",
    [
        lambda artifact: artifact,
        as_plain_dicts,
        after_a_checkpoint,
        lambda artifact: [dumpd(d) for d in artifact],
        lambda artifact: [(d, 0.5) for d in artifact],
        lambda artifact: {"documents": artifact, "query": "q"},
    ],
    ids=["documents", "dicts", "checkpoint", "serialized", "scores", "named"],
)
def test_trap_after_a_checkpoint_artifacts_are_plain_dicts(change, use_tool_documents):
    message = call(tool_over(READY, OTHER, STALE, WITHOUT))
    message.artifact = change(message.artifact)
    assert adapters_of(conversation(message)) == [("doc-a", "1"), ("doc-b", "1")]
    use = use_tool_documents(conversation(message), mode="lag")
    assert use.adapters == {"knowledge": ["doc-a", "doc-b"]}
    assert use.record["fallback"] == ["c", "d"]


@pytest.mark.parametrize("artifact", [None, "text", b"bytes", 3, [], {}, [{"page_content": "x"}]])
def test_other_tools_artifacts_are_left_alone(artifact, use_tool_documents):
    messages = conversation(ToolMessage("x", tool_call_id="1", artifact=artifact))
    assert adapters_of(messages) == []
    assert use_tool_documents(messages, mode="prag+lag") is None


def test_a_failed_tool_call_has_no_documents():
    messages = retrieved(READY)
    messages[-1].status = "error"
    assert adapters_of(messages) == []


@pytest.mark.parametrize(
    ("documents", "mode", "expected"),
    [
        ("adapters", "lag", "prag+lag"),
        ("adapters", "rag+lag", "prag+lag"),
        ("adapters", "base", "prag"),
        ("adapters", "prag+lag", "prag+lag"),
        ("both", "lag", "rag+prag+lag"),
    ],
)
def test_a_tool_that_wants_adapters_turns_the_mode(documents, mode, expected, use_tool_documents):
    use = use_tool_documents(retrieved(READY, documents=documents), mode=mode)
    assert (use.mode, use.adapters) == (expected, {"knowledge": ["doc-a"]})


def test_a_stock_retrievers_documents_are_known_by_their_id(use_tool_documents, scripted_library):
    library = scripted_library(("doc-d", "1", "d"))
    messages = retrieved(WITHOUT)
    assert messages[-1].content == "Found: D."
    assert use_tool_documents(messages, mode="lag", library=library).adapters == {
        "knowledge": ["doc-d"]
    }
    use = use_tool_documents(messages, mode="lag")
    assert use.messages[-1].content == "Found: D.\n\nText of D."
    assert use.record["fallback"] == ["d"]


def test_documents_as_text_change_nothing(use_tool_documents):
    assert use_tool_documents(retrieved(READY, documents="text"), mode="prag+lag") is None


def test_the_stock_tools_documents_are_pinned_if_the_mode_pins(use_tool_documents):
    tool = create_retriever_tool(
        Fixed(documents=[READY]), "search", "x", response_format="content_and_artifact"
    )
    messages = conversation(call(tool))
    assert use_tool_documents(messages, mode="rag+lag") is None
    use = use_tool_documents(messages, mode="prag+lag")
    assert (use.mode, use.adapters) == ("rag+prag+lag", {"knowledge": ["doc-a"]})
    assert use.messages == messages


def test_an_adapter_that_left_the_library_since_becomes_text_visibly(
    scripted_library, use_tool_documents
):
    library = scripted_library(("doc-a", "1"))
    use = use_tool_documents(retrieved(READY, OTHER), mode="lag", library=library)
    assert use.adapters == {"knowledge": ["doc-a"]}
    assert use.messages[-1].content == "Found: A, B.\n\nText of B."
    assert (use.record["text"], use.record["fallback"]) == (["b"], ["b"])


def test_an_adapter_that_was_retrained_since_becomes_text_visibly(
    scripted_library, use_tool_documents
):
    library = scripted_library(("doc-a", "2"))
    messages = retrieved(READY)
    use = use_tool_documents(messages, mode="lag", library=library)
    assert (use.mode, use.adapters) == ("rag+lag", None)
    assert use.messages[-1].content == "Found: A.\n\nText of A."
    assert messages[-1].content == "Found: A."
    assert use.record["fallback"] == ["a"]


def test_adapters_that_the_call_pins_replace_the_documents(use_tool_documents):
    use = use_tool_documents(retrieved(READY, WITHOUT), mode="prag", adapters=["mine"])
    assert use.adapters == {"knowledge": ["mine"]}
    assert use.record["fallback"] == []


def test_several_tools_of_one_turn_count_together(use_tool_documents):
    messages = [
        *retrieved(READY),
        call(tool_over(OTHER, documents="both")),
        call(tool_over(WITHOUT, documents="text")),
    ]
    use = use_tool_documents(messages, mode="lag")
    assert use.adapters == {"knowledge": ["doc-a", "doc-b"]}
    assert use.record["text"] == ["b", "d"]


def test_the_latest_turn_with_documents_counts_and_says_what_it_left_out(use_tool_documents):
    messages = [*retrieved(READY), AIMessage("A"), *retrieved(OTHER), AIMessage("B")]
    follow_up = [*messages, HumanMessage("And?")]
    assert adapters_of(follow_up) == [("doc-b", "1")]
    assert use_tool_documents(follow_up, mode="lag").record["left_out"] == ["a"]


def test_a_mode_that_cannot_pin_is_refused(use_tool_documents):
    with pytest.raises(PlanError, match="Found 'arrow'"):
        use_tool_documents(retrieved(READY), mode="arrow")


def test_without_a_library_every_document_becomes_text(use_tool_documents):
    use = use_tool_documents(retrieved(READY), mode="lag", library=None)
    assert (use.mode, use.messages[-1].content) == ("rag+lag", "Found: A.\n\nText of A.")
