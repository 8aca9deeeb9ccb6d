from __future__ import annotations

import re
from pathlib import Path

import pytest

import lag_engine

ROOT = Path(lag_engine.__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), ROOT / "cookbook" / "README.md", ROOT / "lag_engine/tiny/NOTES.md"]
)


def run_python_of(page: str) -> None:
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL):
        exec(compile(block, page, "exec", dont_inherit=True), namespace)


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_python_of("README.md")
    assert "'mode': 'prag+lag'" in capsys.readouterr().out


def test_the_router_of_the_architecture_page_chooses_every_task_adapter(capsys):
    run_python_of("ARCHITECTURE.md")
    printed = capsys.readouterr().out
    assert all(task in printed for task in ("open_qa", "dialogue", "slot_filling"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_file_names_of_a_page_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^):#]+)\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`([\w./-]+\.py)`", text):
        assert any(ROOT.glob(f"**/{name}")) if "/" in name else any(ROOT.rglob(name)), name
