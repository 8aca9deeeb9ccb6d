from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import nbformat
import pytest

import lag_engine

COOKBOOK = Path(lag_engine.__file__).parents[1] / "cookbook"
RUN = runpy.run_path(str(COOKBOOK / "run.py"))
faults = RUN["faults"]
NOTEBOOKS = RUN["notebooks"]()


def notebook_with(*outputs, source='MODEL, LIBRARY = "lag-tiny", None  # yours: "a", "b"'):
    cell = nbformat.v4.new_code_cell(source, execution_count=1)
    cell.outputs = [nbformat.from_dict(output) for output in outputs]
    return nbformat.v4.new_notebook(cells=[cell])


def printed(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_clean_outputs_of_one_run_and_one_line_chooses_the_model(path):
    assert faults(nbformat.read(path, as_version=4)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_enough_to_review(path):
    text_only = json.loads(path.read_text())
    for cell in text_only["cells"]:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    assert len(json.dumps(text_only)) < 40_000
    assert path.stat().st_size < 600_000


def test_the_cookbooks_readme_lists_every_notebook_in_order():
    links = re.findall(r"\]\((.+?\.ipynb)\)", (COOKBOOK / "README.md").read_text())
    assert links == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebooks_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^):]+)\)", path.read_text()):
        assert (COOKBOOK / target).exists()


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (printed("read /home/ada/model"), "shows a path"),
        (printed("UserWarning: no"), "shows a warning"),
        (printed("loading", "stderr"), "standard error"),
        (
            {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []},
            "ends in ValueError",
        ),
    ],
)
def test_what_a_reader_should_not_see_is_a_fault(output, fault):
    assert any(fault in sentence for sentence in faults(notebook_with(output)))


def test_a_notebook_without_outputs_or_with_two_switches_is_at_fault():
    assert any("keeps no outputs" in sentence for sentence in faults(notebook_with()))
    twice = "\n".join(['MODEL, LIBRARY = "lag-tiny", None  # yours: "a", "b"'] * 2)
    assert any("2 lines" in s for s in faults(notebook_with(printed("5"), source=twice)))
    assert faults(notebook_with(printed("5"))) == []
