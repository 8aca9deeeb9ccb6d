"""Compiles the operator when it is first used, for the processor it runs on.

The result lies in a cache folder under a name made of the sources, the compiler, its options and
the processor, so nothing stale is ever loaded and machines may share the folder.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from lag_engine.model.kernels.structs import declare

SOURCES = Path(__file__).parent
OPTIONS = ("-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 300


class KernelStatus(NamedTuple):
    """Whether the compiled operator can be used here, and why or why not.

    Attributes:
        is_ready: it is loaded.
        reason: in a sentence.
        library: the loaded file; None where there is none.
    """

    is_ready: bool
    reason: str
    library: Path | None = None


class Built(NamedTuple):
    """The loaded operator, or None, and what became of it."""

    loaded: ctypes.CDLL | None
    status: KernelStatus


@functools.cache
def build() -> Built:
    """Loads the operator, compiled before or now; at most once in a process."""
    compiler = _compiler()
    if compiler is None:
        return _absent(f"no C++ compiler was found (looked for $CXX, {', '.join(COMPILERS)})")
    try:
        library = cache_folder() / f"route-{_key(compiler)}.so"
        if not library.exists():
            _compile(compiler, library)
        loaded = ctypes.CDLL(str(library))
        declare(loaded)
        return Built(
            loaded,
            KernelStatus(True, f"compiled by {compiler} for this processor", library),
        )
    except subprocess.CalledProcessError as error:
        return _absent(f"{compiler} failed: {_last_lines(error.stderr)}")
    except (OSError, subprocess.TimeoutExpired) as error:
        return _absent(f"it could not be compiled or loaded: {error}")


def cache_folder() -> Path:
    """Returns where compiled operators are kept: $LAG_CACHE, or the user's cache folder."""
    told = os.environ.get("LAG_CACHE")
    if told:
        return Path(told)
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "lag-integrations"


def _compiler() -> str | None:
    told = os.environ.get("CXX")
    return next(
        (found for name in (told, *COMPILERS) if name and (found := shutil.which(name))), None
    )


def _compile(compiler: str, library: Path) -> None:
    """Leaves the library under its name, whole; of two processes at it, either's result stays."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [compiler, *OPTIONS, str(SOURCES / "route.cpp"), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)  # noqa: S603
        made.replace(library)


def _key(compiler: str) -> str:
    digest = hashlib.sha256()
    for source in sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp"))):
        digest.update(source.name.encode() + source.read_bytes())
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)  # noqa: S603
    for part in (version.stdout, " ".join(OPTIONS), platform.machine(), _processor()):
        digest.update(part.encode() + b"\n")
    return digest.hexdigest()[:16]


def _processor() -> str:
    """The processor's model and abilities, as far as the system tells them."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    told = ("model name", "flags", "Features", "CPU part")
    lines = {line for line in info.read_text().splitlines() if line.startswith(told)}
    return "\n".join(sorted(lines))


def _absent(reason: str) -> Built:
    return Built(None, KernelStatus(False, reason))


def _last_lines(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:])
