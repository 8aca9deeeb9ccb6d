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

import psutil
import torch

from lag_engine import AdapterLibrary
from lag_engine.model.bank import AdapterBank, ResidentStack
from lag_engine.model.kernels import kernel_status

REOPENINGS = 5
_STATUS = Path("/proc/self/status")
_SMAPS = Path("/proc/self/smaps")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_CPU = torch.device("cpu")


def measure(path: Path) -> dict[str, float]:
    """Opens a library as a model does, and makes ready what every token reads of it.

    Returns:
        CPU milliseconds of the first opening and of the median later one, stacks of all modules
        included, and of reading the arrow vectors (and making them compact, where the compiled
        operator runs); bytes that stay resident after that, those of the arrow vectors as they are
        stored, and the peak, all above what the process held before.
    """
    kernel_status()  # loads the operator
    restart_peak()
    before = resident_bytes()
    first, stacks, arrow_bytes = _open(path)
    start = time.thread_time()
    for stack in stacks:
        _make_ready(stack)
    ready = time.thread_time() - start
    resident, peak = resident_bytes() - before, peak_bytes() - before
    later = statistics.median(_open(path)[0] for _ in range(REOPENINGS))
    return {
        "open_first_ms": 1e3 * first,
        "open_again_ms": 1e3 * later,
        "ready_ms": 1e3 * ready,
        "resident_bytes": resident,
        "arrow_bytes": arrow_bytes,
        "open_peak_bytes": peak,
    }


def resident_bytes() -> int:
    """The memory this process holds now, mapped files included."""
    return int(psutil.Process().memory_info().rss)


def held_bytes(folder: Path) -> int:
    """What this process holds of the files in a folder; 0 where not on Linux."""
    total, is_ours = 0, False
    for line in _SMAPS.read_text().splitlines() if _SMAPS.is_file() else ():
        key, *values = line.split()
        if not key.endswith(":"):
            is_ours = str(folder) in line
        elif key == "Rss:" and is_ours:
            total += int(values[0]) * 1024
    return total


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


def _open(path: Path) -> tuple[float, list[ResidentStack], int]:
    """Returns CPU seconds, the stack of every module, and the bytes of arrow vectors stored."""
    start = time.thread_time()
    with AdapterLibrary.open(path, read_only=True) as library:
        bank = AdapterBank(library)
        stacks = [bank.stack(module, "task", _CPU) for module in bank.modules]
        seconds = time.thread_time() - start
        width = sum(shape.d_in for shape in library.modules("task").values())
        n_bytes = len(library) * width * library.dtype.itemsize
    return seconds, [stack for stack in stacks if stack is not None], n_bytes


def _make_ready(stack: ResidentStack) -> None:
    read = stack if stack.shared is None else stack.shared.stack
    if kernel_status().is_ready and read.compiled is not None:
        read.compiled.prepare(n_tokens=1)
    else:
        read.arrow.sum()  # a mapped vector is not resident before it is read


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]))))
