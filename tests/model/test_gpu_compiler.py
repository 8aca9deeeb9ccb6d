"""Triton's compiler builds every GPU kernel for a Hopper processor, without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "gpu_resources.py"
MOST_SHARED = 227 << 10
"""Bytes of shared memory that one program may take of an H100 or H200."""

MOST_SPILLED = 64
"""Bytes of a thread's numbers that may lie in memory for want of registers."""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")
def test_every_kernel_is_built_and_fits(tmp_path):
    told = tmp_path / "told.json"
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}

    subprocess.run(
        [sys.executable, PROGRAM, "--quick", "--json", told], check=True, env=environment
    )

    rows = json.loads(told.read_text())
    assert {row["kernel"] for row in rows} == {"retrieve", "project_all", "project", "apply"}
    assert all(row["stack"] <= MOST_SPILLED for row in rows)
    assert all(row["shared"] <= MOST_SHARED for row in rows)
