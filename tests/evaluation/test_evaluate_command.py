from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from lag_engine import EvaluationError
from lag_engine.cli import app
from lag_engine.cli.evaluate_sources import read_suite
from lag_engine.tiny.suite import tiny_suite

KILT = {
    "id": "7",
    "input": "Who is Rosa?",
    "output": [
        {"answer": "a nurse", "provenance": [{"wikipedia_id": "1"}, {"wikipedia_id": "1"}]},
        {"answer": "nurse"},
        {"provenance": [{"wikipedia_id": "2"}, {"wikipedia_id": "9"}]},
    ],
}


@pytest.fixture
def lines(tmp_path):
    """Writes records as a file of JSON lines."""

    def write(name, *records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write


@pytest.fixture
def evaluate(on_disk, tmp_path):
    """Runs `lag evaluate` on the random model with its library."""

    def run(*arguments):
        model = ("--model", on_disk.model, "--library", on_disk.library, "--quiet")
        result = CliRunner().invoke(
            app,
            [str(a) for a in ("evaluate", *model, "--max-new-tokens", 3, *arguments)],
            env={"COLUMNS": "200"},
        )
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def own(lines):
    """A file of one's own about the documents of the library on disk."""
    return lines(
        "my.jsonl",
        *(
            {
                "question": f"Who is {name}?",
                "answer": job,
                "document": f"{name} is a {job}.",
                "document_id": f"d{i}",
                "task": "qa",
            }
            for i, (name, job) in enumerate(
                (("Rosa", "nurse"), ("Omar", "pilot"), ("Lena", "baker"))
            )
        ),
    )


def test_the_tiny_world_has_its_tasks_and_gold():
    suite = tiny_suite(3)
    assert len(suite.questions) == 15
    assert len(suite.documents) == 200
    assert all(suite.right(question) and question.task_adapter for question in suite.questions)


def test_kilt_rows_become_questions_by_their_files_name(lines):
    suite = read_suite(
        [lines("nq-dev-kilt.jsonl", KILT)],
        documents=lines("pages.jsonl", {"wikipedia_id": "1", "text": ["Rosa.", "A nurse."]}),
    )
    (question,) = suite.questions
    assert (question.id, question.data_set, question.metric) == ("nq/7", "NQ", "em")
    assert question.answers == ("a nurse", "nurse")
    assert question.evidence == (("1",), ("2", "9"))
    assert [document.text for document in suite.right(question)] == ["Rosa.\nA nurse."]


def test_a_kilt_file_of_another_name_needs_its_data_set(lines):
    path = lines("mine.jsonl", KILT)
    with pytest.raises(EvaluationError, match="--data-set"):
        read_suite([path])
    assert read_suite([path], data_set="fever").data_sets == ("FEVER",)


def test_equal_texts_of_ones_own_are_one_document(lines):
    rows = [{"question": f"{i}?", "answer": "x", "document": "Same."} for i in range(3)]
    suite = read_suite([lines("my.jsonl", *rows)])
    assert len(suite.documents) == 1
    assert all(suite.right(question) for question in suite.questions)


def test_documents_of_ones_own_may_stand_on_lines_of_their_own(lines):
    suite = read_suite(
        [
            lines(
                "my.jsonl",
                {"question": "Who?", "answers": ["x", "y"], "document_id": "a", "metric": "f1"},
                {"id": "a", "text": "X.", "title": "T", "adapter": "doc-a"},
            )
        ]
    )
    assert suite.right(suite.questions[0])[0].adapters == {"prag": "doc-a"}
    assert (suite.questions[0].answers, suite.questions[0].metric) == (("x", "y"), "f1")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Who?"}, "gold answer"),
        ({"question": "", "answer": "x"}, "'question'"),
        ({"question": "Who?", "answer": "x", "document_id": "a"}, "'a'"),
        ({"question": "Who?", "answer": "x", "document": ""}, "'text'"),
        ({"hello": "x"}, "a question or a document"),
    ],
)
def test_lines_of_ones_own_that_cannot_be_used_are_told(lines, row, message):
    with pytest.raises(EvaluationError, match=message):
        read_suite([lines("my.jsonl", row, {"question": "Why?", "answer": "y"})])


def test_a_report_is_written_and_the_results_go_on(evaluate, own, tmp_path):
    folder = tmp_path / "out"
    first = evaluate(own, "--output", folder, "--mode", "base", "--mode", "rag", "--mode", "lag")
    assert first.exit_code == 0
    assert {"report.html", "report.md", "results.jsonl"} <= {p.name for p in folder.iterdir()}
    n_lines = len((folder / "results.jsonl").read_text().splitlines())
    evaluate(own, "--output", folder, "--mode", "base")
    assert len((folder / "results.jsonl").read_text().splitlines()) == n_lines + 1  # the session
    assert "RAG" in (folder / "report.md").read_text()


def test_options_are_varied_one_at_a_time_or_together(evaluate, own, tmp_path):
    options = ("--mode", "lag", "--retrieve-k", 1, "--retrieve-k", "adaptive", "--score", "norm")
    alone, together = tmp_path / "alone", tmp_path / "together"
    evaluate(own, "--output", alone, *options)
    evaluate(own, "--output", together, *options, "--every-combination")

    def systems(folder):
        rows = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
        return [row["system"] for row in rows if row["kind"] == "batch"]

    assert systems(alone) == [
        {"mode": "lag"},
        {"mode": "lag", "retrieve_k": 1},
        {"mode": "lag", "retrieve_k": "adaptive"},
        {"mode": "lag", "score": "norm"},
    ]
    assert systems(together) == [
        {"mode": "lag", "retrieve_k": 1, "score": "norm"},
        {"mode": "lag", "retrieve_k": "adaptive", "score": "norm"},
    ]


def test_quick_asks_what_can_run_and_shows_why_it_ranks_nothing(evaluate, own):
    result = evaluate(own, "--quick")
    assert result.exit_code == 0
    assert "No mode got any of 3 questions right" in result.stdout
    assert "right is: nurse" in result.stdout
    assert "Left out: polyprag, polyprag+lag, as" in result.stderr
    assert {"prag+lag", "rag+lag", "base"} <= set(result.stdout.split())


def test_only_the_named_modes_options_are_varied(evaluate, own, tmp_path):
    options = ("--mode", "lag", "--mode", "rag+lag", "--control", "none", "--retrieve-k", 1)
    folder = tmp_path / "out"
    assert evaluate(own, "--output", folder, *options, "--vary", "lag").exit_code == 0
    rows = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    assert [row["system"] for row in rows if row["kind"] == "batch"] == [
        {"mode": "lag"},
        {"mode": "rag+lag"},
        {"mode": "lag", "document": "none"},
        {"mode": "rag+lag", "document": "none"},
        {"mode": "lag", "retrieve_k": 1},
    ]
    result = evaluate(own, "--output", folder, *options, "--vary", "magic")
    assert result.exit_code == 1
    assert "'magic'" in result.stderr


def test_a_second_library_is_a_control(evaluate, own, on_disk, tmp_path):
    second = f"copy={on_disk.library}"
    folder = tmp_path / "out"
    result = evaluate(own, "--output", folder, "--mode", "prag", "--encoding", second)
    assert result.exit_code == 0
    rows = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    answers = [row["answers"]["answer"] for row in rows if row["kind"] == "batch"]
    assert len(answers) == 2
    assert answers[0] == answers[1]


def test_an_empty_file_is_told(evaluate, lines):
    result = evaluate(lines("empty.jsonl"), "--quick")
    assert result.exit_code == 1
    assert "an empty file" in result.stderr


def test_a_mode_that_was_asked_for_and_cannot_run_is_an_error(evaluate, own):
    result = evaluate(own, "--mode", "polyprag")
    assert result.exit_code == 1
    assert "no polyprag adapter" in result.stderr


def test_predictions_are_scored_without_a_model(evaluate, lines):
    gold = lines("nq-dev-kilt.jsonl", KILT)
    guess = lines("guess.jsonl", {"id": "7", "output": [{"answer": "Nurse"}]})
    found = json.loads(evaluate(gold, "--guess", guess).stdout)
    assert found["downstream"]["em"] == 1
    assert found["kilt"]["KILT-em"] == found["retrieval"]["Rprec"] == 0


def test_results_are_reported_again(evaluate, own, tmp_path):
    evaluate(own, "--output", tmp_path / "a", "--mode", "base")
    result = evaluate("--report", tmp_path / "a" / "results.jsonl", "--output", tmp_path / "b")
    assert result.exit_code == 0
    assert (tmp_path / "b" / "report.html").is_file()


@pytest.mark.parametrize("value", ["0", "five"])
def test_candidates_are_a_number_or_adaptive(evaluate, own, value):
    result = evaluate(own, "--retrieve-k", value)
    assert result.exit_code == 1
    assert "'adaptive'" in result.stderr
