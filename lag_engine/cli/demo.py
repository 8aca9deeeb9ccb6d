"""`lag demo`: the whole path on the shipped model.

The demo's chain is LangChain's, and the engine imports no framework. So this command knows the demo
only by its entry point, which the integrations register: `[project.entry-points."lag.demos"]`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from lag_engine.errors import LagError


def demo(
    questions: Annotated[int, typer.Option(min=1, help="Questions of each task.")] = 2,
    output: Annotated[
        Path, typer.Option(help="Folder for the Chroma collection and the heat map.")
    ] = Path("demo-output"),
) -> None:
    """Ask the shipped model in every mode; prints a table, draws a routing heat map."""
    found = entry_points(group="lag.demos", name="langchain")
    if not found:
        raise LagError(
            "Expected the integrations to be installed",
            "found no demo among the installed packages",
            "run `pip install 'lag-integrations[langchain,chroma,ui]'`",
        )
    (point,) = found
    point.load()(n_questions=questions, output=output)
