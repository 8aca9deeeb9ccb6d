"""What a long encoding shows while it runs: a bar on standard error, and a log of losses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class ProgressBar:
    """A bar over passages, with their rate, the loss and the remaining time.

    Args:
        progress: Of rich.
        total: Passages in all.
        verb: What is done to them.
    """

    def __init__(self, progress: Progress, total: int, verb: str) -> None:
        self._progress = progress
        self._task = progress.add_task(verb, total=total, loss="")

    def advance(self, passages: float, *, loss: float | None = None) -> None:
        """Moves on by some passages, or parts of one."""
        fields: dict[str, Any] = {} if loss is None else {"loss": f"loss {loss:.3f}"}
        self._progress.update(self._task, advance=passages, **fields)


@contextmanager
def progress_bar(total: int, verb: str, *, is_shown: bool) -> Iterator[ProgressBar]:
    """Shows a bar on standard error, unless there is nothing to do or it is not to be shown."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _WholeColumn(),
        _RateColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not is_shown or not total,
    )
    with progress:
        yield ProgressBar(progress, total, verb)


class _WholeColumn(MofNCompleteColumn):
    """Whole passages; a step in a group of many moves the bar by a fraction."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed + 1e-6)}/{int(task.total or 0)}")


class _RateColumn(ProgressColumn):
    """Passages a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} passages/s")


class LossLog:
    """Appends one JSON line for each adapter and epoch to a file.

    A group that a crash cut off is trained again, and then stands in the log again.

    Args:
        path: The file; None keeps no log.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, rows: list[dict[str, object]]) -> None:
        """Appends the rows, each with the time in seconds since 1970."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        now = round(time.time(), 3)
        lines = (json.dumps({**row, "time": now}, ensure_ascii=False) + "\n" for row in rows)
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
