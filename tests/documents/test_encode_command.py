"""`lag encode`: what it makes, shows, and says when something is wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from lag_engine import AdapterLibrary
from lag_engine.cli import app

SUBJECTS = ("Rosa Sinclair", "Ada Brandt", "Jonas Valdez", "Amber Wager")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "docs"
    root.mkdir()
    for i, subject in enumerate(SUBJECTS):
        (root / f"{i}.txt").write_text(f"{subject} was born in Lisbon in {1900 + i}.")
    return root


@pytest.fixture
def lag(folder, tmp_path):
    """Runs `lag encode` on the folder; gives exit code, output and errors."""

    def run(*arguments, code=0):
        told = ["encode", folder, "--library", tmp_path / "library", "--quiet", *arguments]
        result = CliRunner().invoke(app, [str(a) for a in told], env={"COLUMNS": "200"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


def documents(path):
    with AdapterLibrary.open(path / "library", read_only=True) as library:
        return {info.document_id: info.metadata["revision"] for info in library.list()}


def test_a_folder_becomes_a_library_and_a_second_run_leaves_it(lag, model, tmp_path):
    assert "4 new" in lag("--model", model).stdout
    made = documents(tmp_path)
    assert set(made) == {f"{i}.txt#0" for i in range(4)}
    assert "4 current" in lag().stdout, "the library knows its model"
    assert documents(tmp_path) == made


def test_changed_and_deleted_files_are_followed_and_shown(lag, model, folder, tmp_path):
    lag("--model", model)
    (folder / "0.txt").write_text("Rosa Sinclair sails.")
    (folder / "1.txt").unlink()
    shown = lag("--status").stdout
    assert "1 changed, 2 current, 1 deleted" in shown
    assert shown.count(".txt") == 4
    assert "1 changed, 2 current, 1 deleted" in lag().stdout
    assert "3 current" in lag("--status").stdout
    assert len(documents(tmp_path)) == 3


def test_status_with_other_settings_shows_what_would_be_stale(lag, model):
    lag("--model", model)
    assert "4 stale" in lag("--status", "--epochs", 7).stdout
    assert "4 current" in lag("--status").stdout


def test_long_files_become_several_passages(lag, model, folder, tmp_path):
    (folder / "0.txt").write_text("Rosa Sinclair was born in Lisbon. " * 12)
    lag("--model", model, "--passage-tokens", 40)
    assert sum(key.startswith("0.txt#") for key in documents(tmp_path)) > 2


def test_pairs_from_a_file_are_taken_and_lines_left_over_are_told(lag, model, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"id": "0.txt", "question": "Where was Rosa born?", "answer": "Lisbon"},
        {"id": "nowhere.txt", "question": "Where?", "answer": "Lisbon"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    result = lag("--model", model, "--pairs", path)
    assert "4 new" in result.stdout
    assert "in no passage: 2" in result.stderr
    assert "4 current" in lag("--pairs", path, "--status").stdout
    assert "4 stale" in lag("--status").stdout, "without the file they would be others"


def test_a_model_that_cannot_write_pairs_is_an_error_unless_plain_is_allowed(
    lag, model, folder, tmp_path
):
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    result = lag("--model", model, "--augment", "self", code=1)
    assert "DocumentError" in result.stderr
    assert "allow_plain" in result.stderr
    assert documents(tmp_path) == {}
    assert "unsupported" in lag("--augment", "self", "--allow-plain").stdout
    assert len(documents(tmp_path)) == 1
    assert "1 current" in lag("--augment", "self", "--allow-plain", "--status").stdout


def test_a_file_that_cannot_be_read_is_an_error_after_the_others_are_done(
    lag, model, folder, tmp_path
):
    (folder / "0.txt").write_bytes(b"\xff\xfe\x00")
    result = lag("--model", model, code=1)
    assert "3 new, 1 failed" in result.stdout
    assert "UTF-8" in result.stderr
    assert len(documents(tmp_path)) == 3


def test_ctrl_c_tells_what_is_kept_and_the_command_goes_on_from_there(
    lag, model, tmp_path, monkeypatch
):
    n_left, add = 1, AdapterLibrary.add_many

    def interrupted(*arguments, **options):
        nonlocal n_left
        n_left -= 1
        if n_left < 0:
            raise KeyboardInterrupt
        return add(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("lag_engine.documents.prag.LARGEST_GROUP", 2)
        patch.setattr(AdapterLibrary, "add_many", interrupted)
        told = lag("--model", model, code=130).stderr
        assert "2 of 4 passages are kept. The same command goes on" in told
        assert "Traceback" not in told
    kept = documents(tmp_path)
    assert len(kept) == 2
    lag()
    assert documents(tmp_path).items() > kept.items()


def test_losses_are_logged(lag, model, tmp_path):
    lag("--model", model, "--loss-log", tmp_path / "losses.jsonl", "--epochs", 3)
    rows = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert len(rows) == 4 * 3


@pytest.mark.parametrize("arguments", [(), ("--status",)])
def test_a_library_that_is_not_there_is_named(lag, arguments):
    assert "LibraryError" in lag(*arguments, code=1).stderr


def test_help_shows_every_option():
    shown = CliRunner().invoke(app, ["encode", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(option in shown for option in ("--method", "--status", "--pairs", "--loss-log"))


@pytest.mark.slow
def test_a_killed_command_run_again_ends_with_the_undisturbed_library(folder, model, tmp_path):
    for i in range(4, 150):
        name = SUBJECTS[i % 4]
        (folder / f"{i}.txt").write_text(f"{name} was born in Lisbon in {1900 + i}. " * (1 + i % 3))

    def start(library):
        told = ["encode", folder, "--library", library, "--model", model, "--epochs", 20]
        command = [sys.executable, "-c", "from lag_engine.cli import app; app()", *map(str, told)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def held(library):
        with AdapterLibrary.open(library, read_only=True) as opened:
            opened.verify()
            return opened.fingerprint, len(opened)

    begun = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    seconds = time.monotonic() - begun
    rng, counts = random.Random(0), []
    for _ in range(4):
        running = start(tmp_path / "killed")
        time.sleep(seconds * rng.uniform(0.4, 0.95))
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        if (tmp_path / "killed" / "manifest.sqlite").exists():
            counts.append(held(tmp_path / "killed")[1])
    assert counts == sorted(counts)
    assert any(count > 0 for count in counts)
    assert start(tmp_path / "killed").wait() == 0
    assert held(tmp_path / "killed") == held(tmp_path / "whole")
    assert held(tmp_path / "whole")[1] == 150
