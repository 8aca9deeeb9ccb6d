"""The demo: a stock LangChain retrieval chain on the shipped model, in every mode.

Registered as the entry point `langchain` of the group `lag.demos`, behind `lag demo`: the engine's
command line imports no framework.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_classic.chains import create_retrieval_chain
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from rich.console import Console
from rich.progress import Progress

from lag_engine import tiny, write_heat_map
from lag_integrations.chroma import open_client
from lag_integrations.langchain.chat_model import LAGChatModel
from lag_integrations.langchain.chroma import index_documents, open_collection
from lag_integrations.langchain.demo_report import print_answers, print_scores
from lag_integrations.langchain.documents_chain import create_parametric_documents_chain
from lag_integrations.langchain.embeddings import LocalEmbeddings
from lag_integrations.langchain.retriever import ParametricRetriever

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore

MODES = ("base", "rag", "lag", "prag", "rag+lag", "prag+lag", "oracle")
MAX_TOKENS = 24
WIDTH = 110


@dataclass(frozen=True)
class Answer:
    """One mode's answer to one question.

    Attributes:
        question: what was asked, with its gold answer.
        mode: what was asked for.
        message: the model's answer with its routing.
        seconds: for the whole chain, retrieval included.
    """

    question: tiny.TinyQuestion
    mode: str
    message: AIMessage
    seconds: float

    @property
    def text(self) -> str:
        """The answer's text."""
        return str(self.message.content).strip()

    @property
    def is_right(self) -> bool:
        """Whether it is the gold answer, to the letter."""
        return self.text == self.question.answer

    @property
    def slots(self) -> dict[str, Any]:
        """The routing account of each slot that was used."""
        slots: dict[str, Any] = self.message.response_metadata["lag_routing"].get("slots", {})
        return slots


def run(*, n_questions: int, output: Path, console: Console | None = None) -> list[Answer]:
    """Asks questions of each task in every mode; prints a table and writes a heat map.

    Args:
        n_questions: of each task.
        output: folder of the Chroma collection and the picture.
        console: where to print.

    Raises:
        LagError: the shipped parts are not there.
    """
    console = console or Console(width=WIDTH)
    started = time.perf_counter()
    _silence_libraries()
    llm = LAGChatModel(model="lag-tiny", max_tokens=MAX_TOKENS, trace="full")
    store = _indexed(output / "chroma")
    chain = make_chain(llm, store)
    console.print(
        f"{len(tiny.documents())} documents in a Chroma collection at {output / 'chroma'}, "
        f"{len(llm.engine.library or ())} adapters in the library."
    )
    answers = list(_ask_all(chain, list(pick_questions(n_questions)), console))
    print_answers(answers, console)
    print_scores(answers, MODES, console)
    path = output / "routing.png"
    drawn = next(a for a in answers if a.mode == "lag" and a.question.task == "slot_filling")
    _draw(drawn, path)
    console.print(f"Routing heat map of the first lag answer to a slot filling question: {path}")
    console.print(f"{len(answers)} answers, {time.perf_counter() - started:.0f} s in all.")
    return answers


def make_chain(llm: LAGChatModel, store: VectorStore) -> Runnable[Any, Any]:
    """LangChain's own retrieval chain; the mode comes with each call's config."""
    frame = tiny.CONTEXT_PROMPT.removesuffix("{input}")
    prompt = ChatPromptTemplate.from_messages([("user", "{context}{input}")])
    retriever = ParametricRetriever(source=store, k=1, library=llm.engine.library)
    documents_chain = create_parametric_documents_chain(llm, prompt, context_template=frame)
    chain: Runnable[Any, Any] = create_retrieval_chain(retriever, documents_chain)
    return chain


def pick_questions(n_per_task: int) -> Iterator[tiny.TinyQuestion]:
    """The first questions of each task that ask about a new document."""
    by_task: dict[str, list[tiny.TinyQuestion]] = {}
    for question in tiny.questions():
        by_task.setdefault(question.task, []).append(question)
    for position, questions in enumerate(by_task.values()):
        first = position * n_per_task
        yield from questions[first : first + n_per_task]


def _silence_libraries() -> None:
    """No loading bars and notices between the demo's own lines."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it notes a missing GPU kernel


def _indexed(folder: Path) -> VectorStore:
    embeddings = LocalEmbeddings(tiny.embedder_path())
    # Another embedder's vectors are refused, so each has a collection of its own.
    name = f"lag-tiny-{embeddings.embedding_model.revision}"
    store = open_collection(open_client(folder), name, embeddings)
    documents = [
        Document(d.text, id=d.id, metadata={"title": d.title, "document_id": d.id})
        for d in tiny.documents()
    ]
    index_documents(store, documents)
    return store


def _ask_all(
    chain: Runnable[Any, Any], questions: Iterable[tiny.TinyQuestion], console: Console
) -> Iterator[Answer]:
    questions = list(questions)
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("asking", total=len(questions) * len(MODES))
        for question in questions:
            for mode in MODES:
                yield _ask(chain, question, mode)
                progress.advance(bar)


def _ask(chain: Runnable[Any, Any], question: tiny.TinyQuestion, mode: str) -> Answer:
    configurable: dict[str, Any] = {"lag_mode": mode}
    if mode == "oracle":
        gold = next(d.adapter for d in tiny.documents() if d.id == question.document_id)
        configurable["lag_adapters"] = {"task": [question.task_adapter], "knowledge": [gold]}
    started = time.perf_counter()
    result = chain.invoke({"input": question.prompt}, {"configurable": configurable})
    return Answer(question, mode, result["answer"], time.perf_counter() - started)


def _draw(answer: Answer, path: Path) -> None:
    usage = answer.message.usage_metadata
    assert usage is not None
    write_heat_map(
        answer.message.response_metadata["lag_routing"]["trace"],
        path,
        title=f"lag: {answer.question.prompt} → {answer.text}",
        n_prompt_tokens=usage["input_tokens"],
    )
