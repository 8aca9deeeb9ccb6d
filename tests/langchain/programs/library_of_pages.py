"""What the programs search: pages about people, companies, places and works, in a Chroma folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate, format_document

from lag_engine import tiny
from lag_integrations.chroma import open_client
from lag_integrations.langchain import LocalEmbeddings

MODEL = str(tiny.model_path())
PIPELINE = {"return_full_text": False, "do_sample": False}
"""So that Hugging Face's pipeline returns the likeliest answer, without the prompt."""

PROMPT = ChatPromptTemplate.from_messages([("user", "{context}{input}")])
PAGE = PromptTemplate.from_template("Text: {page_content}\n\n")


def load_pages() -> list[Document]:
    """The pages, as any loader returns them: text, an id and a title."""
    return [Document(d.text, id=d.id, metadata={"title": d.title}) for d in tiny.documents()]


def open_store(folder: str | Path) -> Chroma:
    """The folder's collection, as LangChain's own vector store, with all pages in it."""
    store = Chroma(
        "pages",
        LocalEmbeddings(tiny.embedder_path()),
        client=open_client(folder),
        collection_configuration={"hnsw": {"space": "cosine"}},
    )
    if not store.get(limit=1)["ids"]:
        store.add_documents(load_pages())
    return store


def as_text(found: Sequence[Document]) -> str:
    """The pages' text, as the prompt takes it."""
    return "".join(format_document(page, PAGE) for page in found)
