"""Reports of results that are made up, so that what must be said about them is known."""

from __future__ import annotations

import gzip
import html.parser
import json
import random

import pytest

from lag_engine import EvaluationError
from lag_engine.evaluation import Results, System, find_best, read_records, write_predictions
from lag_engine.evaluation.claims import answer_open, judge
from lag_engine.evaluation.report import to_markdown, write_report
from lag_engine.evaluation.score_book import ScoreBook
from lag_engine.evaluation.table import Cell, Table
from lag_engine.evaluation.tables import all_tables

N = 60


def make_results(shares, **options):
    """Results in which each system is right on the given share of the questions."""
    return Results.of(results_lines(shares, **options))


def results_lines(shares, *, library=None, sets=("nq", "fever"), routing=()):
    ids = [f"{name}/{i}" for name in sets for i in range(N)]
    questions = [[i, i.split("/")[0], i.split("/")[0], "em", i.split("/")[1]] for i in ids]
    records = [
        {
            "kind": "experiment",
            "format": 2,
            "fingerprint": "f",
            "suite": {"name": "made up"},
            "model": {"name": "m", "parameters": 1, "dtype": "float32"},
            "library": library,
            "settings": {"seed": 0},
            "documents": 3,
            "questions": questions,
        },
        {
            "kind": "session",
            "started": "now",
            "machine": {"gpu": None, "processor": "p", "cores": 1, "threads": 1},
            "versions": {"python": "3"},
        },
    ]
    for system, share in shares.items():
        for name in sets:
            asked = [i for i in ids if i.startswith(name)]
            right = [float(random.Random(f"{i}").random() < share) for i in asked]
            records.append(batch(system, name, asked, right, routing))
    return records


def batch(system, data_set, ids, right, routing):
    constant = {"recall": 1.0, "prompt_tokens": 9, "tokens": 3, "finish_reason": "stop", "cut": 0}
    names = ("accuracy", "em", "f1", "rougel", "contains")
    return {
        "kind": "batch",
        "system": system.told(),
        "data_set": data_set,
        "seconds": 1.0,
        "decoded": len(ids),
        "answers": {
            "id": ids,
            "answer": ["x" if hit else "<y>" for hit in right],
            **dict.fromkeys(names, right),
            "rprec": [float(int(i.split("/")[1]) % 2) for i in ids],
            "documents": [["d1"] for _ in ids],
            **{name: [value] * len(ids) for name, value in constant.items()},
        },
        "routing": list(routing),
    }


LAG = System("lag")
USUAL = {
    System("base"): 0.0,
    System("arrow"): 0.3,
    LAG: 0.7,
    System("rag"): 0.5,
    System("rag+lag"): 0.9,
    System("oracle"): 0.95,
}


@pytest.fixture
def book():
    return ScoreBook(make_results(USUAL))


def verdicts(book):
    return {claim.text: claim.verdict for claim in judge(book)}


def test_clear_claims_are_held_and_refuted_ones_are_not():
    held = verdicts(ScoreBook(make_results(USUAL)))
    assert held["LAG answers better than Arrow"] == "held"
    assert held["LAG reaches 92% of the oracle"] == "not held"
    turned = verdicts(ScoreBook(make_results({LAG: 0.3, System("arrow"): 0.7})))
    assert turned["LAG answers better than Arrow"] == "not held"


def test_what_the_answers_do_not_tell_is_undecided():
    near = verdicts(ScoreBook(make_results({LAG: 0.50, System("arrow"): 0.49})))
    assert near["LAG answers better than Arrow"] == "undecided"


def test_five_candidates_are_enough_if_more_gain_little():
    five, twenty = System("lag", retrieve_k=5), LAG
    text = "5 candidates are enough: 20 gain less than 2 points"
    assert verdicts(ScoreBook(make_results({five: 0.7, twenty: 0.7})))[text] == "held"
    assert verdicts(ScoreBook(make_results({five: 0.4, twenty: 0.7})))[text] == "not held"


def test_controls_are_judged_where_they_were_run():
    wrong = System("rag+lag", document="wrong")
    right = System("rag+lag", document="right")
    shuffled = System("prag", encoding="shuffled")
    found = verdicts(
        ScoreBook(make_results({wrong: 0.1, right: 0.9, System("prag"): 0.5, shuffled: 0.5}))
    )
    better = "RAG+LAG answers better with the right document than with a wrong one"
    assert found[better] == "held"
    assert found["PRAG answers better as usual than with shuffled adapters"] == "undecided"


def test_options_are_judged_one_at_a_time_against_the_mode_as_usual():
    shares = {
        LAG: 0.5,
        System("lag", score="norm"): 0.2,
        System("lag", retrieve_k="adaptive"): 0.9,
        System("lag", score="norm", retrieve_k=5): 0.1,
        System("lag", library_size=5): 0.9,
        System("lag", retrieve_k=50): 0.5,
    }
    found = {claim.text: claim.verdict for claim in answer_open(ScoreBook(make_results(shares)))}
    assert found == {"LAG with the score norm": "worse", "LAG with K adaptive": "better"}


def test_what_was_worded_otherwise_is_told_from_what_was_not_known(book):
    (table,) = (t for t in all_tables([book]) if t.title == "Right, in whatever form")
    assert [row[0].text for row in table.rows] == [
        row[0].text for row in all_tables([book])[0].rows
    ]


def test_results_are_read_from_a_smaller_file_too(tmp_path):
    lines = [{"kind": "experiment", "format": 2, "questions": [["a", "t", "d", "em", "a"]]}]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    assert list(Results.read(tmp_path / "r.jsonl.gz").questions) == ["a"]


def test_storage_counts_the_latent_adapters_too():
    kinds = {
        "knowledge": {"adapters": 10, "bytes": 100_000},
        "mixture": {"adapters": 10, "bytes": 100},
        "latent": {"adapters": 2, "bytes": 2_000},
    }
    book = ScoreBook(make_results({LAG: 0.5}, library={"kinds": kinds}))
    (claim,) = (c for c in judge(book) if c.source == "Poly-PRAG")
    assert claim.verdict == "not held"
    assert "10,000 bytes a passage against 210 " in claim.evidence


def test_means_count_data_sets_alike(book):
    one, other = (book.mean(LAG, data_set=name).score for name in book.data_sets)
    assert book.mean(LAG).score == pytest.approx((one + other) / 2)


def test_a_run_that_was_cut_off_is_reported_as_far_as_all_got(tmp_path):
    records = results_lines({LAG: 0.9, System("base"): 0.1})[:-1]
    results = Results.of(records)
    book = ScoreBook(results)
    assert book.data_sets == ["nq"]
    assert book.mean(LAG).n == book.mean(System("base")).n == N
    write_report([results], tmp_path)
    assert f"{N} of {2 * N} questions by all systems" in (tmp_path / "report.md").read_text()


def test_proven_points_need_the_evidence(book):
    proven, all_points = book.mean(LAG, only_proven=True), book.mean(LAG)
    assert 0 < proven.score < all_points.score


def test_the_best_is_named_with_those_it_cannot_be_told_from():
    near = System("prag+lag")
    verdict = find_best(ScoreBook(make_results({**USUAL, near: 0.94})))
    assert verdict.best == System("oracle")
    told = {rival.system: rival.is_beaten for rival in verdict.rivals}
    assert told[System("base")]
    assert not told[near]
    lines = verdict.lines()
    assert lines[0].startswith("Best on 120 of 120 questions: oracle")
    assert lines.index("It is better than") < lines.index(
        "These questions do not tell it apart from"
    )
    assert lines[-1] == "Only a larger file of questions could."


def test_tables_show_every_mode_in_the_order_of_the_papers(book):
    table = all_tables([book])[0]
    assert [row[0].text for row in table.rows] == [
        "Instr",
        "Arrow",
        "LAG",
        "RAG",
        "RAG+LAG",
        "Oracle",
    ]
    assert table.header == ("system", "nq", "fever", "mean", "normalised")
    assert table.rows[-1][-1].text == "100.0"


def test_options_make_tables_and_figures(tmp_path):
    shares = {System("lag", retrieve_k=k): 0.3 + 0.1 * k for k in (1, 3, 5)}
    shares |= {System("lag", library_size=n): 0.5 for n in (10, 100)}
    shares |= {System("rag", retriever=name): 0.5 for name in ("bm25", "dense")}
    shares |= {System("lag", retrieve_k="adaptive"): 0.6, System("oracle"): 0.9}
    shares |= {System("rag", document="wrong"): 0.1}
    counts = [["knowledge", layer, "up_proj", 1, 4, 3, 4] for layer in (0, 1)]
    results = make_results(shares, routing=counts)
    titles = {table.title: table for table in all_tables([ScoreBook(results)])}
    assert titles["Candidates reranked (K)"].header == ("system", "1", "3", "5", "adaptive")
    assert titles["Library size"].header == ("system", "10", "100")
    assert [row[0].text for row in titles["Retrievers"].rows] == ["bm25", "dense"]
    assert [row[0].text for row in titles["Controls"].rows] == ["rag"]
    assert titles["Routing accuracy"].rows[0][3].text == "75.0"
    write_report([results], tmp_path)
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert pictures == {"scores", "score-against-k", "score-against-library", "routing-knowledge"}


def test_the_page_needs_nothing_beside_it(tmp_path, book):
    sources, headings = [], []

    class Reader(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            headings.extend([tag] if tag == "h2" else [])
            sources.extend(v for k, v in attributes if k in ("src", "href"))

    page = write_report([book.results], tmp_path, command="lag evaluate <x>")
    text = page.read_text()
    Reader().feed(text)
    assert len(headings) > 3
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "lag evaluate &lt;x&gt;" in text


def test_markdown_keeps_its_columns_whatever_a_cell_holds():
    table = Table("t", "n", ("a", "b"), ((Cell("x|y"), Cell("1", "0–2")),))
    lines = to_markdown(table).splitlines()
    assert lines[1:] == ["|---|---:|", "| x\\|y | 1 (0–2) |"]


def test_answers_become_prediction_files(tmp_path, book):
    paths = write_predictions(book.results, tmp_path)
    assert len(paths) == 2 * len(USUAL)
    records = read_records(tmp_path / "rag+lag" / "nq.jsonl")
    assert [record["id"] for record in records] == [str(i) for i in range(N)]
    assert records[0]["output"][0]["provenance"] == [{"wikipedia_id": "d1"}]


def test_results_of_another_format_are_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"kind": "experiment", "format": 99}) + "\n")
    with pytest.raises(EvaluationError, match="format 99"):
        Results.read(path)
    with pytest.raises(EvaluationError, match="results file"):
        Results.read(tmp_path / "nothing")
