"""Every system and control on the tiny world's questions, with one command.

Run it with ``python -m lag_engine.cli.every_system FOLDER``: it encodes the documents in the ways
for which no adapters ship, as ``lag_engine.tiny.encodings`` does, then runs ``lag evaluate`` with
them into ``FOLDER/results``. Both go on where they were cut off.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lag_engine.cli import app
from lag_engine.tiny.encodings import Encodings

CONTROLS = ("right", "wrong", "none")
LENT = ("plain", "shuffled", "together")


def options(folder: Path) -> list[str]:
    """The arguments of ``lag``."""
    told = ["evaluate", "--library", str(folder / "library")]
    for control in CONTROLS:
        told += ["--control", control]
    for name in LENT:
        told += ["--encoding", f"{name}={folder / name}"]
    return [*told, "--output", str(folder / "results")]


def main() -> None:
    """Encodes and evaluates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    Encodings(folder).make()
    app(options(folder))


if __name__ == "__main__":
    main()
