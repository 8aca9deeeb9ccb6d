"""`lag doctor` says which form runs, and why."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from lag_engine.cli import app
from lag_engine.model.kernels import kernel_status

FORMS = ("auto", "torch", "triton") if sys.platform == "linux" else ("auto", "torch")


@pytest.mark.parametrize("wanted", FORMS)
def test_doctor_says_what_computes_the_routed_updates(wanted, monkeypatch):
    monkeypatch.setenv("LAG_KERNELS", wanted)
    found = CliRunner().invoke(app, ["doctor"])
    assert found.exit_code == 0
    form = "the compiled operator" if kernel_status().is_ready else "plain PyTorch"
    assert form in found.output
    told = " ".join(found.output.split())
    assert ("Triton kernels, experimental: Triton" in told) == (wanted == "triton")
    assert "transformers" in found.output
    assert ("approximate routing" in told) == kernel_status().is_ready


def test_doctor_tells_a_form_that_is_not_there_below_what_it_found(monkeypatch):
    monkeypatch.setenv("LAG_KERNELS", "fast")
    found = CliRunner().invoke(app, ["doctor"])
    assert found.exit_code == 1
    assert "auto, cpp, torch" in found.stderr
    assert "transformers" in found.stdout


def test_ctrl_c_while_torch_is_imported_is_no_traceback(monkeypatch):
    def wrapped():
        raise RuntimeError("__set_name__") from KeyboardInterrupt()

    monkeypatch.setattr("lag_engine.model.kernels.kernel_status", wrapped)
    found = CliRunner().invoke(app, ["doctor"])
    assert found.exit_code == 130
    assert "Traceback" not in found.output
