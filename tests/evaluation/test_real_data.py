"""The whole harness on genuine KILT rows, Wikipedia passages and a model trained outside."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from lag_engine import AdapterLibrary, PeftAdapter
from lag_engine.adapters import AdapterSource, LoraModule
from lag_engine.cli import app
from lag_engine.evaluation import Results, System, evaluate, read_records
from lag_engine.evaluation.kilt import DATA_SETS

DATA = Path(__file__).parents[3] / "shared" / "data"
MODEL = DATA / "tinystories-260k" / "hf"
ROWS = {name: DATA / "kilt-rows" / f"{name}-dev-kilt.jsonl" for name in ("nq", "fever", "trex")}
PASSAGES = DATA / "popqa" / "popqa_1000_with_passages.json"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not MODEL.is_dir(), reason="the outside material is not beside the project"),
]


def evidence():
    """The pages of the rows with the sentences that their annotators marked."""
    for path in ROWS.values():
        for row in read_records(path):
            for output in row["output"]:
                for place in output.get("provenance", ()):
                    spans = place.get("meta", {}).get("evidence_span")
                    if spans:
                        yield place["wikipedia_id"], place["title"], " ".join(dict.fromkeys(spans))


def documents():
    """The evidence among other people's first paragraphs."""
    pages = {page: (title, text) for page, title, text in evidence()}
    for row in json.loads(PASSAGES.read_text())[:12]:
        first = row["paragraphs"][0]
        pages[f"popqa-{row['id']}"] = (first["title"], first["text"])
    return [{"wikipedia_id": k, "title": t, "text": x} for k, (t, x) in pages.items()]


def random_adapter(module_shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    return PeftAdapter(
        {
            path: LoraModule(
                0.1 * torch.randn(2, d_in, generator=generator),
                0.1 * torch.randn(d_out, 2, generator=generator),
                1.0,
            )
            for path, (d_out, d_in) in module_shapes.items()
        },
        str(MODEL),
        {},
        "",
    )


@pytest.fixture
def parts(tmp_path):
    """A file of documents, and a library with an adapter for each and for each task."""
    pages = documents()
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps(page) + "\n" for page in pages))
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    shapes = {name: tuple(p.weight.shape) for name, p in model.named_modules() if "_proj" in name}
    tasks = sorted({DATA_SETS[name].task for name in ROWS})
    sources = [
        AdapterSource(
            random_adapter({k: v for k, v in shapes.items() if part in k}, seed),
            name=name,
            kind=kind,
            document_id=document,
        )
        for seed, (name, kind, document, part) in enumerate(
            [(task, "task", None, "self_attn") for task in tasks]
            + [(f"doc-{p['wikipedia_id']}", "knowledge", p["wikipedia_id"], "mlp") for p in pages]
        )
    ]
    with AdapterLibrary.create(tmp_path / "library", base_model=MODEL) as library:
        library.add_many(sources, progress=False)
    return path, tmp_path / "library"


def test_genuine_rows_run_from_files_to_a_report(parts, tmp_path):
    pages, library = parts
    modes = ("base", "lag", "rag", "prag", "rag+lag", "prag+lag")
    command = [
        *("evaluate", *ROWS.values(), "--documents", pages, "--model", MODEL),
        *("--library", library, "--document-tokens", 80, "--max-new-tokens", 8, "--quiet"),
        *(part for mode in modes for part in ("--mode", mode)),
        *("--retrieve-k", 1, "--output", tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, [str(part) for part in command], catch_exceptions=False)
    assert result.exit_code == 0
    results = Results.read(tmp_path / "out" / "results.jsonl")
    assert {system.mode for system in results.systems} == set(modes)
    assert all(len(found.answers) == 15 for found in results.systems.values())
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert_scores_are_those_of_the_prediction_files(results, tmp_path / "out" / "predictions")


def assert_scores_are_those_of_the_prediction_files(results, folder):
    for mode in ("base", "rag", "prag+lag"):
        for name, path in ROWS.items():
            title, _, metric = DATA_SETS[name]
            gold = read_records(path)
            official = evaluate(gold, read_records(folder / mode / f"{title}.jsonl"))
            answers = results.systems[System(mode)].answers
            ours = [answers[f"{name}/{row['id']}"] for row in gold]
            assert statistics.mean(a[metric] for a in ours) == official["downstream"][metric]
            assert statistics.mean(a["rprec"] for a in ours) == official["retrieval"]["Rprec"]


def test_gold_answers_are_perfect_on_every_genuine_file():
    files = sorted((DATA / "kilt-rows").glob("*-dev-kilt.jsonl"))
    assert len(files) >= 7
    for path in files:
        gold = read_records(path)
        first = [
            {**row, "output": [next(o for o in row["output"] if o.get("answer"))]} for row in gold
        ]
        found = evaluate(gold, first)
        assert found["downstream"]["accuracy"] == found["downstream"]["em"] == 1
        assert found["kilt"]["KILT-accuracy"] == found["retrieval"]["Rprec"]
