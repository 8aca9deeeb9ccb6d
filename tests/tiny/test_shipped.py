"""What ships with the package: documents, questions they answer, and the trained parts' paths."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import lag_engine.tiny as tiny
from lag_engine.adapters import AdapterLibrary
from lag_engine.errors import ModelError
from lag_engine.tiny import shipped
from lag_engine.tiny.tasks import TASKS
from lag_engine.tiny.world import KINDS, RELATIONS, is_evaluation_name, known_world

SPLITS = ("eval", "dev")
PARTS = {
    "lag-tiny": tiny.model_path,
    "library": tiny.library_path,
    "adapters": tiny.adapters_path,
    "embedder": tiny.embedder_path,
}


@pytest.mark.parametrize("split", SPLITS)
def test_documents_have_distinct_ids_titles_and_adapters_and_the_kinds_take_turns(split):
    documents = tiny.documents(split)
    assert len(documents) == shipped.DOCUMENTS_PER_KIND * len(KINDS)
    for part in ("id", "title", "adapter", "text"):
        assert len({getattr(d, part) for d in documents}) == len(documents)
    assert [d.kind for d in documents[:8]] == [*KINDS, *KINDS]
    assert all(d.adapter == f"doc-{d.id}" for d in documents)
    assert documents == tiny.documents(split)


@pytest.mark.parametrize("split", SPLITS)
def test_a_document_is_the_text_of_its_entity(split):
    for entity, document in zip(shipped.world_entities(split), tiny.documents(split), strict=True):
        assert (document.kind, document.title) == (entity.kind, entity.name)
        assert document.id == shipped.document_id(entity)
        assert document.text.count(entity.name) == 4
        assert all(value in document.text for value in entity.facts.values())


def test_the_shipped_documents_are_of_the_evaluation_side_and_the_others_are_not():
    assert all(is_evaluation_name(e.name) for e in shipped.world_entities("eval"))
    chosen_on = {e.name for e in shipped.world_entities("dev")}
    assert not any(is_evaluation_name(name) for name in chosen_on)
    assert not chosen_on & {e.name for e in known_world(shipped.SEED)}


@pytest.mark.parametrize("split", SPLITS)
def test_no_entity_is_its_own_value(split):
    assert not [e for e in shipped.world_entities(split) if e.name in e.facts.values()]


@pytest.mark.parametrize("split", SPLITS)
def test_every_task_asks_equally_often_about_every_document(split):
    questions = tiny.questions(split)
    assert Counter(q.task for q in questions) == dict.fromkeys(TASKS, 200)
    assert Counter(q.document_id for q in questions) == dict.fromkeys(
        (d.id for d in tiny.documents(split)), len(TASKS)
    )
    assert all(q.task_adapter == q.task for q in questions)


@pytest.mark.parametrize("split", SPLITS)
def test_every_questions_document_exists_and_answers_it(split):
    documents = {d.id: d for d in tiny.documents(split)}
    for question in tiny.questions(split):
        document = documents[question.document_id]
        if question.task == "fact_checking":
            assert question.answer == verdict(question.prompt, document)
        elif question.task == "entity_linking":
            assert question.answer == document.title
        elif question.task == "dialogue":
            assert question.answer.removeprefix("I think it is ").removesuffix("!") in document.text
        else:
            assert question.answer in document.text
            assert document.title in question.prompt


def verdict(prompt, document):
    """Whether the claim's relation and value are stated in the document, in any phrasing."""
    claim = prompt.removeprefix("Claim: ").replace(document.title, "{x}", 1)
    for relation in RELATIONS[document.kind]:
        for statement in relation.statements:
            before, after = statement.split("{v}")
            if claim.startswith(before) and claim.endswith(after):
                value = claim.removeprefix(before).removesuffix(after)
                stated = {s.format(x=document.title, v=value) for s in relation.statements}
                return "SUPPORTS" if any(s in document.text for s in stated) else "REFUTES"
    raise AssertionError(prompt)


def test_every_shipped_mention_can_be_linked_to_one_document_only():
    statements = {}
    for entity in shipped.world_entities():
        marked = f"[START_ENT] {entity.mention} [END_ENT]"
        for relation in entity.relations():
            for statement in relation.statements:
                text = statement.format(x=marked, v=entity.facts[relation.name])
                statements.setdefault(text, set()).add(entity.name)
    for question in tiny.questions():
        if question.task == "entity_linking":
            assert statements[question.prompt] == {question.answer}


def test_verdicts_are_balanced():
    answers = Counter(q.answer for q in tiny.questions() if q.task == "fact_checking")
    assert answers.keys() == {"SUPPORTS", "REFUTES"}
    assert min(answers.values()) >= 80


def test_fewer_questions_are_the_first_of_their_task():
    few = tiny.questions(per_task=10)
    assert Counter(q.task for q in few) == dict.fromkeys(TASKS, 10)
    assert few[:10] == tiny.questions()[:10]


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_says_what_is_missing_where_and_what_to_do(part, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    with pytest.raises(ModelError) as caught:
        PARTS[part]()
    for words in (repr(part), str(tmp_path / part), "python -m lag_engine.tiny.build"):
        assert words in str(caught.value)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_there_is_its_folder(part, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ASSETS", tmp_path)
    (tmp_path / part).mkdir()
    assert PARTS[part]() == tmp_path / part


def test_the_front_door_exports_what_it_says():
    assert tiny.__all__ == sorted(tiny.__all__)
    assert all(hasattr(tiny, name) for name in tiny.__all__)


def test_documents_and_questions_cost_no_torch():
    code = (
        "import sys, lag_engine.tiny as t; t.documents(); t.questions(); "
        "sys.exit(bool({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_that_peft_trained_on_the_shipped_model_joins_its_library(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny.model_path())
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "mine")
    library = AdapterLibrary.create(
        tmp_path / "library", base_model=tiny.model_path(), base_name="lag-tiny"
    )
    with library:
        assert library.add(tmp_path / "mine").name == "mine"
