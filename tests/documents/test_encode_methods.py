"""`lag encode --method`: each encoder as a user runs it, and what it says of its training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from lag_engine import AdapterLibrary, DyPRAG, LAGEngine, Passage
from lag_engine.cli import app
from lag_engine.cli.encode_report import Losses, show_losses

SUBJECTS = ("Rosa Sinclair", "Ada Brandt", "Jonas Valdez")
MIXING = ("--method", "polyprag", "--latents", 4, "--top-k", 2)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "docs"
    root.mkdir()
    for i, subject in enumerate(SUBJECTS):
        (root / f"{i}.txt").write_text(f"{subject} was born in Lisbon in {1900 + i}.")
    return root


@pytest.fixture
def lag(folder, model, tmp_path):
    """Runs `lag encode` on the folder; gives exit code, output and errors."""

    def run(*arguments, code=0):
        told = ["encode", folder, "--library", tmp_path / "library", "--model", model, "--quiet"]
        result = CliRunner().invoke(app, [*map(str, (*told, *arguments))], env={"COLUMNS": "200"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    return run


def names(path, *kinds):
    with AdapterLibrary.open(path / "library", read_only=True) as library:
        return {info.name for kind in kinds for info in library.list(kind)}


def test_polyprag_makes_latent_adapters_and_a_mixture_for_each_passage(lag, tmp_path):
    assert "3 new" in lag(*MIXING).stdout
    assert names(tmp_path, "mixture") == {f"polyprag-{i}.txt#0" for i in range(3)}
    assert len(names(tmp_path, "latent")) == 4
    assert "3 current" in lag(*MIXING, "--status").stdout
    assert "3 current" in lag(*MIXING).stdout


def test_other_settings_train_the_whole_collection_anew_whatever_became_of_the_files(
    lag, folder, tmp_path
):
    lag(*MIXING)
    (folder / "0.txt").unlink()
    (folder / "1.txt").write_bytes(b"\xff\xfe\x00")
    other = lag("--method", "polyprag", "--latents", 3, "--top-k", 2, code=1)
    assert "1 stale, 1 deleted, 1 failed" in other.stdout
    assert len(names(tmp_path, "latent")) == 3
    assert names(tmp_path, "mixture") == {"polyprag-1.txt#0", "polyprag-2.txt#0"}


def test_lag_ask_makes_an_adapter_of_a_text_with_the_librarys_translator(
    lag, folder, model, tmp_path
):
    lag("--method", "dyprag")
    asked = ("ask", model, "Where?", "--library", tmp_path / "library", "--mode", "dyprag")

    def ask(*options):
        told = map(str, (*asked, "--max-new-tokens", 2, "--trace", *options))
        return CliRunner().invoke(app, [*told], env={"COLUMNS": "200"})

    told = ask("--context", folder / "0.txt")
    assert told.exit_code == 0, told.output
    assert "knowledge: dyprag-" in told.stdout
    assert "Found: none" in ask().stderr
    pinned = ask("--context", folder / "0.txt", "--adapter", "prag-0.txt#0")
    assert "Found: --adapter" in pinned.stderr
    assert pinned.exit_code == 1


def test_dyprag_leaves_a_translator_that_engines_find(lag, folder, model, tmp_path):
    told = ("--method", "dyprag", "--translator-epochs", 2)
    assert "to be trained" in _status_of_new(lag, told)
    assert "Translator: trained" in lag(*told).stdout
    assert "Translator: current" in lag(*told).stdout
    assert "Translator: current" in lag(*told, "--status").stdout
    library = tmp_path / "library"
    with LAGEngine.from_pretrained(model, library=library) as engine:
        made = DyPRAG.from_engine(engine).adapters([Passage("x", "Rosa was born in Lisbon.")])
        assert set(made) == {"dyprag-x"}
    (folder / "0.txt").write_text("Rosa Sinclair sails.")
    assert "to be trained" in lag(*told, "--status").stdout or "1 changed" in lag(*told).stdout
    assert "Translator: current" in lag(*told).stdout


def _status_of_new(lag, told):
    """A library that knows its documents by PRAG with other settings, and has no translator."""
    lag()
    return lag(*told, "--status").stdout


def test_one_folder_may_be_encoded_by_both_and_each_has_its_status(lag, folder, tmp_path):
    lag()
    lag(*MIXING)
    assert "3 current" in lag("--status").stdout
    assert "3 current" in lag(*MIXING, "--status").stdout
    (folder / "0.txt").unlink()
    (folder / "1.txt").write_text("Ada Brandt sails.")
    lag(*MIXING)
    assert names(tmp_path, "mixture") == {"polyprag-1.txt#0", "polyprag-2.txt#0"}
    left = names(tmp_path, "knowledge")
    assert left == {"prag-2.txt#0"}, "of a text that is gone no adapter stays"


@pytest.mark.parametrize("method", [(), MIXING])
def test_targets_and_layers_are_chosen_and_others_make_stale(lag, tmp_path, method):
    narrow = (*method, "--targets", "gate_proj, up_proj", "--layers", "1")
    lag(*narrow)
    with AdapterLibrary.open(tmp_path / "library", read_only=True) as library:
        for info in library.list("latent" if method else "knowledge"):
            assert info.modules == ("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj")
    assert "3 current" in lag(*narrow, "--status").stdout
    assert "3 stale" in lag(*method, "--targets", "gate_proj,up_proj", "--status").stdout
    assert "3 stale" in lag(*method, "--status").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--targets", "gate_proj,fc1"), ("'fc1'", "down_proj, gate_proj, k_proj, o_proj, q_proj")),
        (("--targets", "mlp"), ("'mlp'", "gate_proj")),
        (("--targets", "lm_head"), ("'lm_head'", "gate_proj")),
        (("--layers", "7"), ("in layers (7,)",)),
        (("--targets", "gate_proj,"), ("--targets", "'gate_proj,'")),
        (("--layers", "1-2"), ("--layers", "'1-2'")),
    ],
)
def test_targets_and_layers_that_the_model_lacks_are_refused_by_name(lag, arguments, words):
    errors = " ".join(lag(*arguments, code=1).stderr.split())
    assert all(word in errors for word in words)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--method", "polyprag", "--clip", 1.0), "--clip"),
        (("--method", "prag", "--latents", 4), "--latents"),
        (("--method", "polyprag", "--translator-epochs", 4), "--translator-epochs"),
    ],
)
def test_an_option_of_another_method_is_refused(lag, arguments, named):
    errors = lag(*arguments, code=1).stderr
    assert f"options of --method {arguments[1]}" in errors
    assert named in errors


def test_the_loss_is_told_and_a_high_one_warned_of(lag, capsys):
    weak = lag("--learning-rate", 1e-6)
    assert "Loss at the end:" in weak.stdout
    assert "above 1.0 for 3 of them" in weak.stderr
    assert "Loss" not in lag("--learning-rate", 1e-6).stdout, "nothing was encoded"
    show_losses(Losses(0.25, {"a": 0.2, "b": 0.3}))
    told = capsys.readouterr()
    assert "0.25 in the median of 2 passages, at most 0.30 (b)" in " ".join(told.out.split())
    assert not told.err


@pytest.mark.slow
@pytest.mark.parametrize("method", [("prag",), ("polyprag", "--latents", "4"), ("dyprag",)])
def test_ctrl_c_ends_it_at_once_and_the_next_run_goes_on(folder, model, tmp_path, method):
    for i in range(3, 60):
        (folder / f"{i}.txt").write_text(f"{SUBJECTS[i % 3]} was born in {1900 + i}.")
    told = ["encode", folder, "--library", tmp_path / "library", "--model", model, "--method"]
    command = [sys.executable, "-c", "from lag_engine.cli import app; app()", *map(str, told)]
    slow = subprocess.Popen(
        [*command, *method, "--epochs", "2000"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    manifest = tmp_path / "library" / "manifest.sqlite"
    while not manifest.exists():
        time.sleep(0.1)
    time.sleep(3)
    os.kill(slow.pid, signal.SIGINT)
    try:
        _, errors = slow.communicate(timeout=60)
    finally:
        slow.kill()
    assert slow.returncode == 130
    assert b"Traceback" not in errors
    again = subprocess.run([*command, *method, "--epochs", "1"], capture_output=True, check=True)
    assert b"60 " in again.stdout
