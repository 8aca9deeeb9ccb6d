"""PEFT folders as PEFT itself writes them, and adapters in memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lag_engine.adapters import AdapterLibrary, LoraModule, PeftAdapter

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")


@pytest.fixture
def peft_folder(make_model, tmp_path) -> Callable[..., Path]:
    """Trains nothing: saves a PEFT adapter whose factors are random, lora_B included."""

    def make(family: str = "llama", *, name: str = "adapter", seed: int = 5, **config) -> Path:
        config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | config
        model = get_peft_model(make_model(family), LoraConfig(task_type="CAUSAL_LM", **config))
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name:
                    parameter.normal_(std=0.3)
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def edit_config() -> Callable[..., Path]:
    def edit(folder: Path, **fields) -> Path:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder

    return edit


@pytest.fixture
def edit_weights() -> Callable[..., Path]:
    """Rewrites the weights file through a function over its tensors."""

    def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        return folder

    return edit


@pytest.fixture
def make_adapter() -> Callable[..., PeftAdapter]:
    """Builds an adapter in memory; the seed decides its factors."""

    def make(
        seed: int = 0, *, rank: int = 3, modules=MODULES, shape=(32, 32), scaling: float = 2.0
    ) -> PeftAdapter:
        generator = torch.Generator().manual_seed(seed)
        d_in, d_out = shape
        return PeftAdapter(
            {
                module: LoraModule(
                    torch.randn(rank, d_in, generator=generator),
                    torch.randn(d_out, rank, generator=generator),
                    scaling,
                )
                for module in modules
            },
            base_model=None,
            source=f"adapter-{seed}",
        )

    return make


@pytest.fixture
def library(tmp_path) -> AdapterLibrary:
    with AdapterLibrary.create(tmp_path / "library", base_model=None) as library:
        yield library


def delta(part: LoraModule) -> torch.Tensor:
    """The dense update in float64; (D_out, D_in)."""
    return part.scaling * part.lora_B.double() @ part.lora_A.double()


@pytest.fixture
def stacked_delta() -> Callable[..., torch.Tensor]:
    """The dense update that a library's stack holds for a name; (D_out, D_in)."""

    def read(library, module: str, kind: str, name: str) -> torch.Tensor:
        stack = library.stack(module, kind)
        row = torch.tensor(stack.names.index(name))
        return stack.B(row).double().mT @ stack.A(row).double()

    return read


@pytest.fixture
def as_format_1() -> Callable[[Path], None]:
    """Makes of a library without mixtures what the version before them left on disk."""

    def change(path: Path) -> None:
        with sqlite3.connect(path / "manifest.sqlite") as db:
            [old] = db.execute("SELECT sql FROM sqlite_master WHERE name = 'adapters'").fetchone()
            [last] = db.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'adapters'"
            ).fetchone()
            db.execute("DROP TABLE mixtures")
            db.execute("DROP INDEX live_names")
            db.execute("ALTER TABLE adapters RENAME TO later")
            db.execute(old.replace(", 'latent'", ""))
            db.execute("INSERT INTO adapters SELECT * FROM later")
            db.execute("DROP TABLE later")
            db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'adapters'", (last,))
            db.execute("CREATE UNIQUE INDEX live_names ON adapters (name) WHERE NOT is_removed")
            db.execute("PRAGMA user_version = 1")

    return change
