from __future__ import annotations

import re
from pathlib import Path

import pytest

import lag_engine
from lag_engine.tiny import shipped

README = Path(lag_engine.__file__).parents[1] / "README.md"


@pytest.mark.skipif(not shipped.ASSETS.is_dir(), reason="the shipped model is not built yet")
def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), namespace)
    assert "'mode': 'prag+lag'" in capsys.readouterr().out
