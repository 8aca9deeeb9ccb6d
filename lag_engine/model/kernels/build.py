"""Compiles the operator when it is first used, for the processor it runs on.

The result lies in a cache folder under a name made of the sources, the options and the processor,
of the compiler, and of what is in it: nothing stale or damaged is ever loaded, and machines may
share the folder. Where there is no compiler, what any made before is good.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lag_engine.model.kernels.structs import declare

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES = Path(__file__).parent
OPTIONS = ("-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared")
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 300
ELSEWHERE = "set LAG_CACHE to a folder that can be written"


class KernelStatus(NamedTuple):
    """Whether the compiled operator can be used here, and why or why not.

    Attributes:
        is_ready: it is loaded.
        reason: in a sentence.
        library: the loaded file; None where there is none.
        reads_nibbles: whether it can scan approximately on this processor.
    """

    is_ready: bool
    reason: str
    library: Path | None = None
    reads_nibbles: bool = False


class Built(NamedTuple):
    """The loaded operator, or None, and what became of it."""

    loaded: ctypes.CDLL | None
    status: KernelStatus


@functools.cache
def build() -> Built:
    """Loads the operator, compiled before or now; at most once in a process."""
    try:
        compiler = _compiler()
        library = _find_or_compile(compiler)
        by = f"by {_name(compiler)}" if compiler else "before (there is no compiler now)"
        loaded = _load(library, by)
    except OSError as error:
        return Built(None, KernelStatus(False, str(error)))
    reason = f"compiled {by} for this processor"
    return Built(loaded, KernelStatus(True, reason, library, bool(loaded.lag_reads_nibbles())))


def cache_folder() -> Path:
    """Returns where compiled operators are kept: $LAG_CACHE, or the user's cache folder.

    Raises:
        OSError: the user has no home, and no variable names a folder.
    """
    if told := os.environ.get("LAG_CACHE"):
        return Path(told).absolute()
    if user := os.environ.get("XDG_CACHE_HOME"):
        return Path(user) / "lag-integrations"
    try:
        return Path.home() / ".cache" / "lag-integrations"
    except RuntimeError as error:
        raise FileNotFoundError(f"this user has no home to keep it in; {ELSEWHERE}") from error


def _compiler() -> Sequence[str]:
    """Returns the compiler with its arguments: $CXX alone where it is set; none is empty."""
    told = os.environ.get("CXX", "")
    try:
        first, *arguments = shlex.split(told) or [""]
    except ValueError as error:
        raise FileNotFoundError(f"CXX={told} cannot be read: {error}") from error
    found = next(filter(None, map(shutil.which, [first] if first else COMPILERS)), None)
    if first and found is None:
        raise FileNotFoundError(f"CXX={told} names no program")
    return [found, *arguments] if found else []


def _name(compiler: Sequence[str]) -> str:
    return f"CXX={shlex.join(compiler)}" if os.environ.get("CXX") else compiler[0]


def _find_or_compile(compiler: Sequence[str]) -> Path:
    """Returns the newest library that is whole; compiles where there is none."""
    stem = f"route-{_key()}-{_version(compiler) if compiler else '*'}"
    found = sorted(cache_folder().glob(f"{stem}-*.so"), key=os.path.getmtime, reverse=True)
    whole = next(filter(_is_whole, found), None)
    try:
        return whole or _compile(compiler, stem)
    except OSError as error:
        damaged = f"{found[0]} is damaged, and " if found else ""
        raise OSError(f"{damaged}{error}") from error


def _compile(compiler: Sequence[str], stem: str) -> Path:
    """Leaves the library under its name, whole; of two processes at it, either's result stays."""
    if not compiler:
        raise FileNotFoundError(
            f"no C++ compiler was found (looked for $CXX, {', '.join(COMPILERS)})"
        )
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "route.so"
            _run(compiler, *OPTIONS, str(SOURCES / "route.cpp"), "-o", str(made))
            if not made.is_file():
                raise ChildProcessError(f"{_name(compiler)} compiled nothing")
            return made.replace(cache / f"{stem}-{_digest(made.read_bytes())}.so")
    except ChildProcessError:
        raise
    except OSError as error:
        raise OSError(f"it cannot be kept in {cache} ({error}); {ELSEWHERE}") from error


def _load(library: Path, by: str) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(library))
        declare(loaded)
    except (OSError, AttributeError) as error:
        said = str(error).removeprefix(f"{library}: ")
        raise OSError(f"{library}, compiled {by}, cannot be loaded: {said}") from error
    return loaded


def _is_whole(library: Path) -> bool:
    """Whether what is in it is what its name says; to load half a library ends the process."""
    return library.stem.rpartition("-")[2] == _digest(library.read_bytes())


def _key() -> str:
    sources = sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")))
    parts = [part for source in sources for part in (source.name.encode(), source.read_bytes())]
    told = (*OPTIONS, platform.machine(), _processor())
    return _digest(*parts, *(part.encode() for part in told))


def _version(compiler: Sequence[str]) -> str:
    told = (*compiler[1:], _run(compiler, "--version"))
    return _digest(*(part.encode() for part in told))


def _digest(*parts: bytes) -> str:
    """Returns a digest of the parts and of where each ends."""
    digests = (hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


def _run(compiler: Sequence[str], *arguments: str) -> str:
    """Returns what the compiler writes; raises ChildProcessError where it fails."""
    try:
        return subprocess.run(  # noqa: S603
            [*compiler, *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        ).stdout
    except subprocess.CalledProcessError as error:
        told = _last_lines(error.stderr) or f"it ended with status {error.returncode}"
        raise ChildProcessError(f"{_name(compiler)} failed: {told}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChildProcessError(f"{_name(compiler)} failed: {error}") from error


def _processor() -> str:
    """The processor's model and abilities, as far as the system tells them."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    told = ("model name", "flags", "Features", "CPU part")
    lines = {line for line in info.read_text().splitlines() if line.startswith(told)}
    return "\n".join(sorted(lines))


def _last_lines(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:])
