"""Opens a library in a process of its own and prints what that took, as JSON: `opening.py FOLDER`.

Imports little, so that what the process held before is little too.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from lag_engine import AdapterLibrary

REOPENINGS = 5
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def measure(path: Path) -> dict[str, float]:
    """Opens a library as an engine does: every module's arrow vectors read, in float32.

    Returns:
        CPU milliseconds of the first opening and of the median later one, stacks of all modules
        included; bytes that stay resident, those of the arrow vectors, and the peak, all above
        what the process held before.
    """
    restart_peak()
    before = resident_bytes()
    first, stacks = _open(path)
    arrows = [stack.arrow.float() for stack in stacks]
    for arrow in arrows:
        arrow.sum()  # reads every page; a mapped vector is not resident before
    resident, peak = resident_bytes() - before, peak_bytes() - before
    later = statistics.median(_open(path)[0] for _ in range(REOPENINGS))
    return {
        "open_first_ms": 1e3 * first,
        "open_again_ms": 1e3 * later,
        "resident_bytes": resident,
        "arrow_bytes": sum(arrow.nbytes for arrow in arrows),
        "open_peak_bytes": peak,
    }


def resident_bytes() -> int:
    """The memory this process holds now, mapped files included."""
    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most this process held since `restart_peak`, or since its start where not on Linux."""
    if _STATUS.is_file():
        # ru_maxrss would include the parent's peak, up to the moment it started this process.
        lines = (line.split() for line in _STATUS.read_text().splitlines())
        return next(int(line[1]) for line in lines if line[0] == "VmHWM:") * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def restart_peak() -> None:
    """Makes what the process holds now its peak, where the system can."""
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")


def _open(path: Path) -> tuple[float, list[Any]]:
    start = time.thread_time()
    with AdapterLibrary.open(path, read_only=True) as library:
        stacks = [library.stack(module, "task") for module in library.modules("task")]
    return time.thread_time() - start, stacks


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]))))
