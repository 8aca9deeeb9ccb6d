from __future__ import annotations

import json
import multiprocessing
import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import pytest

from lag_engine import EvaluationError, read_peft
from lag_engine.evaluation import Experiment, Results, Settings, System, grid

SYSTEMS = grid(["base", "lag", "rag", "prag+lag", "oracle"])
SHORT = Settings(max_new_tokens=3)


def batches(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "batch"]


@pytest.fixture
def run(experiment, tmp_path):
    def make(systems=SYSTEMS, *, name="results.jsonl", batch=2, seconds=None, **options):
        options.setdefault("settings", SHORT)
        path = tmp_path / name
        made = experiment(systems, **options)
        return made.run(path, batch=batch, progress=False, seconds=seconds), path

    return make


def test_every_system_answers_every_question(run, suite):
    results, _ = run()
    assert list(results.systems) == SYSTEMS
    for found in results.systems.values():
        assert set(found.answers) == {question.id for question in suite.questions}


def test_answers_are_those_of_the_engine_alone(run, engine, suite):
    results, _ = run([System("rag"), System("prag+lag")])
    for system, shown in ((System("rag"), True), (System("prag+lag"), False)):
        for question in suite.questions:
            document = suite.right(question)[0]
            text = f"Text: {document.text}\n\n{question.prompt}" if shown else question.prompt
            adapters = None if shown else {"knowledge": [document.adapters["prag"]]}
            alone = engine.generate(
                [{"role": "user", "content": text}],
                plan=engine.plan(system.mode, adapters=adapters),
                max_new_tokens=3,
            )
            found = results.systems[system].answers[question.id]
            assert found["answer"] == alone.text.strip()
            assert found["prompt_tokens"] == alone.usage.prompt_tokens


def test_retrieved_documents_are_recorded_and_scored(run):
    results, _ = run([System("rag"), System("rag", document="wrong"), System("lag")])
    found, wrong, closed = (results.systems[s].answers["qa-0"] for s in results.systems)
    assert found["documents"][0] == "d0"
    assert (found["rprec"], wrong["rprec"], closed["rprec"]) == (1, 0, 0)
    assert closed["documents"] == []


def test_batches_take_turns_so_that_systems_stay_comparable(run, suite):
    _, path = run()
    asked = [tuple(batch["answers"]["id"]) for batch in batches(path)]
    assert asked[: len(SYSTEMS)] == [("qa-0", "qa-1")] * len(SYSTEMS)
    assert asked[len(SYSTEMS)] == ("slots-0", "slots-1")


def test_a_second_run_asks_nothing_again(run):
    first, path = run()
    n_lines = len(batches(path))
    second, _ = run()
    assert len(batches(path)) == n_lines
    assert second.systems == first.systems
    assert len(second.sessions) == 2


def test_what_was_cut_off_anywhere_is_asked_again(run):
    whole, path = run(name="whole.jsonl")
    content = path.read_bytes()
    for end in (len(content) - 7, len(content) // 2, len(content) // 3):
        cut = path.with_name("cut.jsonl")
        cut.write_bytes(content[:end])
        again, _ = run(name="cut.jsonl")
        assert again.questions == whole.questions
        for system in SYSTEMS:
            assert again.scores(system) == whole.scores(system)
            assert again.systems[system].routing == whole.systems[system].routing
        read = Results.read(cut)
        assert {s: found.answers for s, found in read.systems.items()} == {
            s: found.answers for s, found in again.systems.items()
        }


def test_a_killed_run_leaves_a_file_that_goes_on(run, tmp_path):
    whole, path = run(name="whole.jsonl")
    part = tmp_path / "part.jsonl"

    def write_until_killed():
        from lag_engine.evaluation.results import ResultsFile

        lines = [json.loads(line) for line in path.read_text().splitlines()]
        with ResultsFile(part, lines[0]) as file:
            for line in lines[1:6]:
                file.append(line)
            os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(target=write_until_killed)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert len(batches(part)) == 4
    again, _ = run(name="part.jsonl")
    assert [again.scores(s) for s in SYSTEMS] == [whole.scores(s) for s in SYSTEMS]


def test_further_systems_join_a_file(run):
    run([System("base")])
    results, _ = run([System("base"), System("rag")])
    assert list(results.systems) == [System("base"), System("rag")]


def test_another_experiment_does_not_join_a_file(run, suite):
    run()
    with pytest.raises(EvaluationError, match="another settings"):
        run(settings=replace(SHORT, max_new_tokens=4))
    with pytest.raises(EvaluationError, match="another suite"):
        run(suite=suite.sample(2))


def test_only_one_writes_a_file(run, tmp_path):
    from lag_engine.evaluation.results import ResultsFile

    _, path = run([System("base")])
    with (
        ResultsFile(path, json.loads(path.read_text().splitlines()[0])),
        pytest.raises(EvaluationError, match="another process"),
    ):
        run([System("base")])


@pytest.mark.parametrize("content", [b"hello\n", b'{"kind": "other"}\n', b"[1]\n"])
def test_other_files_are_left_alone(run, tmp_path, content):
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"results\.jsonl"):
        run()
    assert path.read_bytes() == content


def test_time_ends_a_run_between_rounds(run):
    results, _ = run(seconds=0.0)
    counts = {len(found.answers) for found in results.systems.values()}
    assert counts == {2}


def test_routing_is_counted_for_routed_slots(run, engine):
    results, _ = run([System("lag"), System("prag+lag"), System("oracle")])
    slots = {s.mode: {key[0] for key in found.routing} for s, found in results.systems.items()}
    assert slots == {"lag": {"task", "knowledge"}, "prag+lag": {"task"}, "oracle": set()}
    modules = {key[3] for key in results.systems[System("lag")].routing if key[0] == "knowledge"}
    assert modules == {"gate_proj", "up_proj", "down_proj"}


def test_routing_is_not_counted_in_controls(run):
    systems = [System("lag", document=source) for source in ("right", "wrong", "none")]
    results, _ = run(systems)
    assert [bool(found.routing) for found in results.systems.values()] == [True, False, False]


def test_what_several_systems_ask_alike_is_decoded_once(run):
    right, more = System("rag", document="right"), System("prag+lag", retrieve_k=7)
    asked = [System("rag"), right, System("prag+lag"), more]
    _, path = run(asked, batch=6)
    decoded = [batch["decoded"] for batch in batches(path)]
    assert decoded == [3, 0, 3, 0] * 2
    alone, _ = run([right, more], name="alone.jsonl")
    together = Results.read(path)
    for system in (right, more):
        assert together.scores(system) == alone.scores(system)
        assert together.systems[system].routing == alone.systems[system].routing


def test_adapters_are_made_while_questions_are_asked(run, engine, on_disk, suite):
    asked = []

    class Maker:
        """Gives each passage the adapter on disk."""

        fingerprint = "those on disk"

        @contextmanager
        def generated(self, passages):
            asked.append([passage.id for passage in passages])
            read = {p.id: read_peft(on_disk.adapters / f"doc-{p.id[1]}") for p in passages}
            with engine.generated(read) as names:
                yield names

    results, _ = run([System("dyprag"), System("prag")], makers={"dyprag": Maker()}, batch=3)
    made, pinned = (results.systems[s].answers for s in results.systems)
    assert {i: a["answer"] for i, a in made.items()} == {i: a["answer"] for i, a in pinned.items()}
    assert asked == [["d0", "d1", "d2"]] * 2


def test_documents_are_cut_only_when_asked_and_told_then(run):
    whole, _ = run([System("rag")])
    cut, _ = run([System("rag")], settings=replace(SHORT, document_tokens=2), name="cut.jsonl")
    (whole, cut) = (r.systems[System("rag")].answers["qa-0"] for r in (whole, cut))
    assert (whole["cut"], cut["cut"]) == (0, 1)
    assert cut["prompt_tokens"] < whole["prompt_tokens"]


def test_a_prompt_that_does_not_fit_is_told_with_its_system(run):
    with pytest.raises(EvaluationError, match="under rag"):
        run(
            [System("rag")],
            settings=replace(SHORT, context_template="x " * 90 + "{context}{input}"),
        )


def test_a_system_that_cannot_run_is_refused_before_anything_runs(engine, suite, experiment):
    with pytest.raises(EvaluationError, match="no polyprag adapter"):
        experiment([System("polyprag")])
    with pytest.raises(EvaluationError, match="no retriever 'bm25'"):
        Experiment(engine, suite, [System("rag")])


def test_the_file_tells_how_it_was_made(run):
    results, _ = run([System("base")])
    assert results.about["library"]["kinds"]["task"]["adapters"] == 2
    assert results.about["settings"]["max_new_tokens"] == 3
    (session,) = results.sessions
    assert {"torch", "transformers", "python"} <= set(session["versions"])
    assert session["machine"]["processor"]
