"""The operator is compiled once, kept whole, and where it cannot be had the reason is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lag_engine.errors import ModelError
from lag_engine.model.kernels import build, default_form, form, kernel_status
from lag_engine.routing import GROUPED
from tests.model.placed import needs_compiler

COMPILER = """#!/bin/sh
case "$*" in *--version) echo 1; exit;; esac
echo "$*" >> "{log}"
for made; do :; done
cp "{library}" "$made"
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder."""
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """A quick compiler, which copies what the real one made; `runs` are its arguments."""
    path, log = tmp_path / "quick c++", tmp_path / "log"
    path.write_text(COMPILER.format(log=log, library=build.build().status.library))
    path.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{path}' -O1")
    return SimpleNamespace(path=path, runs=lambda: log.read_text().splitlines())


def status():
    """What a fresh process would find."""
    return build.build.__wrapped__().status


def replace(library, content):
    library.unlink()  # it may be mapped
    library.write_bytes(content)


def damage(library, how):
    content = library.read_bytes()
    damages = {"empty": b"", "garbage": b"?" * 5000, "cut": content[:-5000]}
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    replace(library, damages.get(how, bytes(changed)))


@needs_compiler
@pytest.mark.parametrize("how", ["empty", "garbage", "cut", "one bit"])
def test_a_damaged_library_is_compiled_again_once(cache, compiler, how):
    library = status().library
    assert status().is_ready
    assert len(compiler.runs()) == 1
    damage(library, how)
    for _ in range(2):
        assert status().library == library
    assert len(compiler.runs()) == 2
    assert list(cache.iterdir()) == [library]


@needs_compiler
def test_a_library_that_was_made_before_needs_no_compiler(monkeypatch, compiler):
    library = status().library
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    found = status()
    assert found.is_ready
    assert found.library == library
    assert "no compiler now" in found.reason
    damage(library, "cut")
    assert not status().is_ready
    assert f"{library} is damaged, and no C++ compiler" in status().reason


@needs_compiler
def test_another_compiler_and_other_arguments_make_another_library(monkeypatch, compiler):
    first = status()
    assert str(compiler.path) in first.reason
    assert compiler.runs()[0].startswith("-O1 -std=c++20")
    monkeypatch.setenv("CXX", f"'{compiler.path}' -O2")
    assert status().library != first.library


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("nothing-of-this-name -O1", "CXX=nothing-of-this-name -O1 names no program"),
        ("c++ '", "CXX=c++ ' cannot be read"),
        ("false", "false failed: it ended with status 1"),
        ("true", "true compiled nothing"),
    ],
)
def test_a_compiler_that_was_told_and_cannot_be_used_is_named(monkeypatch, cache, told, reason):
    monkeypatch.setenv("CXX", told)
    assert not status().is_ready
    assert reason in status().reason
    assert not cache.exists() or not list(cache.iterdir())


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path, cache):
    broken = tmp_path / "c++"
    broken.write_text(
        "#!/bin/sh\ncase $1 in --version) exit 0;; esac\necho no such option >&2\nexit 1"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert not status().is_ready
    assert "no such option" in status().reason
    assert not list(cache.iterdir())


@needs_compiler
def test_what_is_no_operator_is_named_with_its_compiler(monkeypatch, compiler):
    compiler.path.write_text(compiler.path.read_text().replace("cp ", "echo nothing > $made; : "))
    found = status()
    assert not found.is_ready
    assert f"compiled by CXX='{compiler.path}' -O1, cannot be loaded" in found.reason


def test_a_user_without_a_home_is_told_of_the_variable(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("LAG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert not status().is_ready
    assert "LAG_CACHE" in status().reason


@needs_compiler
def test_a_folder_that_cannot_be_written_is_named(monkeypatch, compiler, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("LAG_CACHE", str(file / "cache"))
    assert f"kept in {file / 'cache'}" in status().reason
    assert "LAG_CACHE" in status().reason


def test_without_a_compiler_pytorch_runs_and_says_why(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(form, "build", build.build.__wrapped__)
    monkeypatch.setenv("LAG_KERNELS", "auto")
    assert default_form() is GROUPED
    assert "no C++ compiler" in kernel_status().reason
    monkeypatch.setenv("LAG_KERNELS", "cpp")
    with pytest.raises(ModelError, match="Found that no C"):
        default_form()
