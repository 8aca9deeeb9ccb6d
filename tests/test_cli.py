from __future__ import annotations

import json
from importlib.metadata import version
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lag_engine import AdapterLibrary, LAGEngine, LagError
from lag_engine.cli import app
from lag_engine.cli.console import print_error


@pytest.fixture
def lag():
    """Runs `lag` with the arguments; returns exit code, output and errors, unwrapped."""

    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def library(lag, on_disk, tmp_path):
    """A library of `qa` and, with a document, `doc-0`, made by the commands."""
    path = tmp_path / "library"
    assert lag("library", "create", path, "--base-model", on_disk.model).exit_code == 0
    assert lag("library", "add", path, on_disk.adapters / "qa").exit_code == 0
    document = ("--kind", "knowledge", "--document-id", "d0")
    assert lag("library", "add", path, on_disk.adapters / "doc-0", *document).exit_code == 0
    return path


def names(path):
    with AdapterLibrary.open(path, read_only=True) as library:
        return [info.name for info in library.list()]


def test_help_names_every_command(lag):
    assert all(name in lag("--help").stdout for name in ("ask", "demo", "library"))


def test_the_version_is_the_packages(lag):
    assert lag("--version").stdout.strip() == version("lag-integrations")


def test_create_and_add_make_a_library(library):
    with AdapterLibrary.open(library, read_only=True) as opened:
        assert opened.info("qa").kind == "task"
        assert opened.info("doc-0").document_id == "d0"


def test_list_shows_each_adapter_once(lag, library):
    output = lag("library", "list", library).stdout
    assert "2 adapters" in output
    assert output.count("doc-0") == 1
    lines = lag("library", "list", library, "--kind", "task", "--json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["qa"]


def test_info_is_json(lag, library):
    assert json.loads(lag("library", "info", library, "doc-0").stdout)["document_id"] == "d0"


def test_rename_and_remove_change_the_library(lag, library):
    lag("library", "rename", library, "qa", "answers")
    assert names(library) == ["answers", "doc-0"]
    lag("library", "remove", library, "answers")
    assert names(library) == ["doc-0"]
    assert "Freed" in lag("library", "compact", library).stdout


def test_removing_an_unknown_adapter_removes_none(lag, library):
    assert lag("library", "remove", library, "qa", "nobody").exit_code == 1
    assert names(library) == ["qa", "doc-0"]


def test_verify_says_what_it_read(lag, library):
    assert "2 adapters" in lag("library", "verify", library).stdout


def test_export_writes_what_add_reads(lag, library, tmp_path):
    assert lag("library", "export", library, "qa", tmp_path / "again").exit_code == 0
    lag("library", "add", library, tmp_path / "again")
    assert names(library) == ["qa", "doc-0", "again"]


def test_audit_finds_a_duplicate_and_says_so_by_its_exit_code(lag, library, on_disk):
    assert lag("library", "audit", library).exit_code == 0
    lag("library", "add", library, on_disk.adapters / "qa", "--name", "copy")
    result = lag("library", "audit", library)
    assert result.exit_code == 2
    assert "qa and copy are equal" in result.stdout


def test_a_name_for_two_sources_is_refused(lag, library, on_disk):
    sources = (on_disk.adapters / "slots", on_disk.adapters / "doc-1")
    result = lag("library", "add", library, *sources, "--name", "x")
    assert result.exit_code == 1
    assert "one by one" in result.stderr


def test_a_mistake_is_a_panel_and_not_a_traceback(lag, tmp_path):
    result = lag("library", "list", tmp_path / "nothing")
    assert result.exit_code == 1
    assert "LibraryError" in result.stderr
    assert "Expected:" in result.stderr
    assert "Do:" in result.stderr
    assert "Traceback" not in result.output


def test_a_folder_of_adapters_is_told_how_to_be_added(lag, library, on_disk):
    result = lag("library", "add", library, on_disk.adapters)
    assert result.exit_code == 1
    assert f"{on_disk.adapters}/*" in result.stderr.replace("\n", "")


def test_a_long_mistake_is_shortened_on_a_terminal_only(monkeypatch):
    names = [f"adapter-{i}" for i in range(1000)]
    error = LagError("Expected a sound file", f"found {', '.join(names)} broken", "restore it")

    def printed(is_terminal):
        console = Console(file=StringIO(), width=200, force_terminal=is_terminal)
        monkeypatch.setattr("lag_engine.cli.console.err", console)
        print_error(error)
        return console.file.getvalue()

    short, whole = printed(True), printed(False)
    assert "adapter-0," in short
    assert "adapter-999 broken" in short
    assert "words, told where the output is piped" in short
    assert short.count("\n") < 12
    assert all(name in whole for name in names)


@pytest.fixture
def ask(lag, on_disk):
    def run(*arguments):
        common = ("ask", on_disk.model, "Who is it?", "--max-new-tokens", 3)
        return lag(*common, "--library", on_disk.library, *arguments)

    return run


def test_ask_answers_and_shows_the_routing(ask):
    result = ask("--trace")
    assert result.exit_code == 0
    assert "task: " in result.stdout
    assert "knowledge: doc-" in result.stdout


def test_ask_pins_adapters(ask):
    result = ask("--mode", "prag", "--adapter", "doc-1=0.5", "--trace")
    assert "knowledge: doc-1 100%" in result.stdout


def test_ask_routes_by_the_score_it_is_told(ask, monkeypatch):
    plans = []
    stock = LAGEngine.plan
    monkeypatch.setattr(
        LAGEngine, "plan", lambda *a, **k: plans.append(stock(*a, **k)) or plans[-1]
    )
    assert ask("--score", "norm").exit_code == 0
    assert {plan.knowledge.router.score for plan in plans} == {"norm"}
    assert not any(plan.knowledge.router.approximate for plan in plans)
    assert ask("--approximate").exit_code == 0
    assert plans[-1].knowledge.router.approximate


@pytest.mark.parametrize("command", [("ask", "lag-tiny", "Who?"), ("serve", "--port", 0)])
def test_the_bound_of_the_library_reaches_the_engine(lag, command, monkeypatch):
    def told(*_, factor_cache_bytes, **__):
        raise LagError(f"bound to {factor_cache_bytes}")

    monkeypatch.setattr(LAGEngine, "from_pretrained", told)
    assert "bound to 2000000" in lag(*command, "--factor-cache-mb", 2).stderr
    assert "bound to None" in lag(*command).stderr


def test_ask_puts_context_into_the_prompt(ask, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("Rosa is a nurse.")
    result = ask("--context", file, "--trace")
    assert "' nurse'" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mode", "nonsense"), "nonsense"),
        (("--mode", "prag"), "pinned adapters"),
        (("--mode", "prag", "--adapter", "nobody"), "nobody"),
        (("--mode", "prag", "--adapter", "doc-1=much"), "write the weight like 0.5"),
        (("--mode", "lag", "--context", "x.txt"), "mode that reads documents"),
        (("--context", "not-there.txt"), "Found: [Errno 2]"),
    ],
)
def test_mistakes_in_a_question_are_told(ask, arguments, message):
    result = ask(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
