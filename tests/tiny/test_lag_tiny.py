"""The shipped parts belong together and do what the README says of them."""

from __future__ import annotations

import zlib

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lag_engine import AdapterLibrary, LAGEngine, tiny
from lag_engine.evaluation import BM25Retriever, Experiment, Settings, grid
from lag_engine.evaluation.score_book import ScoreBook
from lag_engine.tiny.shipped import ASSETS, TOOL_ADAPTER
from lag_engine.tiny.suite import tiny_suite
from lag_engine.tiny.tasks import TASKS

PER_TASK = 16


@pytest.fixture(scope="module")
def engine():
    with LAGEngine.from_pretrained("lag-tiny") as engine:
        yield engine


@pytest.fixture(scope="module")
def score(engine, tmp_path_factory):
    """The mean score of a mode."""
    suite = tiny_suite(PER_TASK)
    experiment = Experiment(
        engine,
        suite,
        grid(["base", "lag", "oracle", "rag+lag"]),
        settings=Settings(is_traced=False),
        retrievers=[BM25Retriever([d.text for d in suite.documents])],
    )
    path = tmp_path_factory.mktemp("lag-tiny") / "results.jsonl"
    book = ScoreBook(experiment.run(path, progress=False))
    return {system.mode: book.mean(system).score for system in book.systems}


def test_everything_shipped_travels_in_at_most_40_megabytes():
    deflated = [zlib.compress(p.read_bytes(), 1) for p in ASSETS.rglob("*") if p.is_file()]
    assert sum(map(len, deflated)) <= 40e6


def test_the_library_is_whole_and_holds_every_task_and_document():
    with AdapterLibrary.open(tiny.library_path(), read_only=True) as library:
        library.verify()
        assert {info.name for info in library.list("task")} == {*TASKS, TOOL_ADAPTER}
        documents = {info.name: info.document_id for info in library.list("knowledge")}
    assert documents == {d.adapter: d.id for d in tiny.documents()}
    assert len(documents) >= 200


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's call
@pytest.mark.parametrize("position", [0, 101])
def test_a_shipped_peft_folder_is_the_librarys_adapter(engine, position):
    document = tiny.documents()[position]
    ids = engine.tokenizer(document.text, return_tensors="pt").input_ids
    base = AutoModelForCausalLM.from_pretrained(tiny.model_path(), dtype=torch.float32)
    folder = tiny.adapters_path() / "documents" / document.id
    theirs = PeftModel.from_pretrained(base, folder).eval()(input_ids=ids).logits
    plan = engine.plan("prag", adapters=[document.adapter])
    # Both are stored in float16, once as trained and once in spectral form.
    torch.testing.assert_close(engine.logits(ids, plan=plan), theirs, atol=0.05, rtol=0.01)


def test_the_base_answers_in_sentences_and_adapters_bring_the_format(score):
    assert score["base"] <= 0.15
    assert score["oracle"] > 0.7


def test_routing_finds_most_of_what_the_oracle_is_told(score):
    assert score["lag"] > 0.6 * score["oracle"]


def test_a_document_in_the_prompt_is_read(score):
    assert score["rag+lag"] > 0.7


def test_an_answer_in_a_conversation_begins_without_the_tokenizers_space(engine):
    question = "Question: Who founded Garnet Chemicals?"
    asked = [{"role": "user", "content": question}]
    answer = engine.generate(asked, plan="base", max_new_tokens=8)
    written = engine.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
    assert written == f" {answer.text}"
    pieces = list(engine.stream(asked, plan="base", max_new_tokens=8))
    assert "".join(piece.text for piece in pieces) == answer.text
    raw = engine.generate(engine.tokenize_messages(asked), plan="base", max_new_tokens=8)
    assert raw.text == written
