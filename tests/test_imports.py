"""Imports point one way; the sources are read, not run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lag_engine

ROOT = Path(lag_engine.__file__).parents[1]

MAY_IMPORT = {
    "errors": set(),
    "cancellation": set(),
    "aio": {"cancellation"},
    "heat_map": set(),
    "routing": {"errors"},
    "adapters": {"errors"},
    # tiny: for the path behind "lag-tiny".
    "model": {"errors", "cancellation", "routing", "adapters", "tiny"},
    "documents": {"errors", "routing", "adapters", "model"},
    "tiny": {"errors", "routing", "adapters", "model", "documents", "evaluation"},
    "evaluation": {"errors", "routing", "adapters", "model", "documents"},
    "serving": {"errors", "aio", "heat_map", "routing", "adapters", "model", "documents"},
    "cli": {"errors", "routing", "adapters", "model", "documents", "evaluation", "serving", "tiny"},
}
"""Room of `lag_engine`: the rooms it may import from."""

OUTSIDE_OF_TENSORS = {"pathlib", "os", "io", "sqlite3", "safetensors", "transformers", "peft"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yields the full names of what a file imports, relative imports resolved."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(parts[: len(parts) - node.level]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room(name: str) -> str | None:
    """The room of `lag_engine` that a full name lies in."""
    parts = name.split(".")
    return parts[1] if parts[0] == "lag_engine" and len(parts) > 1 else None


@pytest.mark.parametrize("path", sources("lag_engine"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_the_rooms_below_it(path):
    here = path.relative_to(ROOT / "lag_engine").parts[0].removesuffix(".py")
    if here == "__init__":
        return
    assert here in MAY_IMPORT, f"a new room '{here}': say in MAY_IMPORT what it may import"
    rooms = {room(name) for name in imported(path)} & set(MAY_IMPORT)
    assert rooms <= MAY_IMPORT[here] | {here}


@pytest.mark.parametrize("path", sources("lag_engine"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_knows_no_framework(path):
    frameworks = {"langchain_core", "langchain_classic", "llama_index", "lag_integrations"}
    assert not {name.split(".")[0] for name in imported(path)} & frameworks


@pytest.mark.parametrize(
    "path", sources("lag_integrations"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_integrations_import_only_public_names(path):
    public = {f"lag_engine.{name}" for name in (*lag_engine.__all__, "tiny")}
    ours = {name for name in imported(path) if name.split(".")[0] == "lag_engine"}
    assert ours <= public


@pytest.mark.parametrize(
    "path",
    [*sources("lag_engine/routing"), ROOT / "lag_engine/adapters/spectral.py"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_the_mathematics_sees_tensors_only(path):
    names = list(imported(path))
    assert not {name.split(".")[0] for name in names} & OUTSIDE_OF_TENSORS
    assert not {n for n in names if n.startswith("torch.nn")} - {"torch.nn.functional"}


def test_public_names_are_sorted_and_all_exist():
    names = lag_engine.__all__
    assert len(names) == len(set(names))
    assert all(hasattr(lag_engine, name) for name in names)


def test_importing_the_engine_costs_no_torch():
    code = "import lag_engine, lag_engine.cli, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
