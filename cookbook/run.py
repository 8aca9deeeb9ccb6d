"""Runs the notebooks of this folder, and checks what they keep.

python cookbook/run.py            each runs in an empty folder; says if it prints other words
python cookbook/run.py --write    the same, and what came out is kept
python cookbook/run.py 1 7        only these
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

HERE = Path(__file__).parent
SECONDS = 120
"""What a notebook takes at most, on two cores that have nothing else to do."""

PATIENCE = 600
"""Seconds after which a cell counts as hung."""

SWITCH = re.compile(r'^MODEL, LIBRARY = "lag-tiny", None  # yours: ', re.MULTILINE)
"""The one line to change for a real model and one's own adapters."""

UNWANTED = {
    "a path of somebody's machine": re.compile(r"/(?:home|root|tmp|work|Users|private|usr)/\w"),
    "a warning": re.compile(r"\w*Warning\b"),
}
NOTICES = re.compile(
    r"^Failed to load CPU gemm_4bit_forward from kernels-community.*\n", re.MULTILINE
)
"""What bitsandbytes logs on some processors; no notebook uses it, and no reader has asked."""

NUMBER = re.compile(r"\d+(?:\.\d+)?")


def notebooks(numbers: list[int] | None = None) -> list[Path]:
    """The notebooks in order, or those of the given numbers."""
    found = sorted(HERE.glob("[0-9][0-9]-*.ipynb"))
    return [path for path in found if not numbers or int(path.name[:2]) in numbers]


def faults(notebook: NotebookNode) -> list[str]:
    """What a notebook must not keep, or lacks; sentences."""
    found = []
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    n_switches = sum(len(SWITCH.findall(cell.source)) for cell in cells)
    if n_switches != 1:
        found.append(f"has {n_switches} lines that choose the model, instead of one")
    if any(cell.execution_count != i for i, cell in enumerate(cells, start=1)):
        found.append("was not kept from one run, top to bottom")
    if not any(cell.outputs for cell in cells):
        found.append("keeps no outputs")
    for cell in cells:
        for output in cell.outputs:
            found += [f"cell {cell.execution_count} {what}" for what in _faults_of(output)]
    return found


def _faults_of(output: NotebookNode) -> Iterator[str]:
    if output.output_type == "error":
        yield f"ends in {output.ename}"
    if output.get("name") == "stderr":
        yield f"prints to standard error: {output.text[:80]!r}"
    for what, pattern in UNWANTED.items():
        if match := pattern.search(text_of(output)):
            yield f"shows {what}: {match[0]!r}"


def text_of(output: NotebookNode) -> str:
    """An output as text; a picture is its place only."""
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))


def texts_of(notebook: NotebookNode) -> list[str]:
    """What the cells print, each number as 0: times differ from run to run."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [NUMBER.sub("0", "".join(map(text_of, cell.outputs))) for cell in cells]


def execute(notebook: NotebookNode) -> NotebookNode:
    """A copy of the notebook with the outputs of a run in an empty folder.

    Raises:
        CellExecutionError: a cell raises.
        CellTimeoutError: a cell takes longer than `PATIENCE`.
    """
    fresh: NotebookNode = nbformat.from_dict(notebook)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            fresh,
            timeout=PATIENCE,
            startup_timeout=PATIENCE,
            kernel_name="python3",
            coalesce_streams=True,  # when a cell flushes is a matter of the machine
            extra_arguments=["--log-level=ERROR"],  # it warns of its own local socket
            resources={"metadata": {"path": folder}},
            record_timing=False,
        )
        client.execute()
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_notice(output)]
    return fresh


def _is_notice(output: NotebookNode) -> bool:
    return output.get("name") == "stderr" and not NOTICES.sub("", output.text).strip()


def keep(notebook: NotebookNode, path: Path) -> None:
    """Writes a notebook so that two runs differ in their outputs only."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata = {}
    nbformat.write(notebook, path)


def run(path: Path, *, write: bool) -> list[str]:
    """Runs one notebook; returns what is wrong with it, and prints how long it took."""
    kept = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    try:
        fresh = execute(kept)
    except CellExecutionError as error:
        return [str(error)]
    seconds = time.perf_counter() - started
    is_same = texts_of(kept) == texts_of(fresh)
    notes = [f"{seconds:.0f} s"]
    notes += [f"more than {SECONDS}"] if seconds > SECONDS else []
    notes += [] if is_same or write else ["prints other words than it keeps"]
    print(f"{path.name}: {'; '.join(notes)}", flush=True)
    if write:
        keep(fresh, path)
    wrong = faults(fresh) if write else [*faults(kept), *faults(fresh)]
    return list(dict.fromkeys(wrong))


def main() -> int:
    """Runs what the command line names; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description="Run the cookbook's notebooks.")
    parser.add_argument("numbers", nargs="*", type=int, help="of notebooks; all by default")
    parser.add_argument("--write", action="store_true", help="keep what comes out")
    options = parser.parse_args()
    wrong = {path: run(path, write=options.write) for path in notebooks(options.numbers)}
    for path, sentences in wrong.items():
        for sentence in sentences:
            print(f"{path.name}: {sentence}", file=sys.stderr)
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
