"""Remakes every shipped part from the seed: ``python -m lag_engine.tiny.build``.

Stages run in order and each is skipped where its result exists, so a build that was stopped goes on
where it was. Work lies in ``build/tiny`` below the current folder until the last stage puts the
finished parts in place.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.adapters import (
    AdapterLibrary,
    AdapterSource,
    LoraModule,
    PeftAdapter,
    read_peft,
    write_peft,
)
from lag_engine.documents.training import StepLosses, TrainingOptions
from lag_engine.tiny.adapters import (
    DOCUMENT_OPTIONS,
    DOCUMENT_STEPS,
    TASK_OPTIONS,
    TASK_STEPS,
    train_document_adapters,
    train_task_adapters,
)
from lag_engine.tiny.base import STEPS, train_base
from lag_engine.tiny.copy_heads import widened_adapter
from lag_engine.tiny.copy_training import with_copy_heads
from lag_engine.tiny.embedder import train_embedder
from lag_engine.tiny.shipped import (
    ASSETS,
    SEED,
    TOOL_ADAPTER,
    DocumentSplit,
    document_id,
    documents,
    world_entities,
)
from lag_engine.tiny.tasks import TASKS
from lag_engine.tiny.tool_adapter import STEPS as TOOL_STEPS
from lag_engine.tiny.tool_adapter import ToolStep, train_tool_adapter

BASE_MODEL = "lag-tiny"
GROUP = 25
"""Document adapters trained in one stack."""
STORE_DTYPE = torch.float16
TRANSIENT = ("checkpoint.pt", "*.lock", "*.sqlite-wal", "*.sqlite-shm")

console = Console()


def main() -> None:
    """Runs every stage that is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/tiny"), help="where to work")
    parser.add_argument("--output", type=Path, default=ASSETS, help="where the parts go")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the base model")
    arguments = parser.parse_args()
    build(arguments.work, arguments.output, base_steps=arguments.steps)


def build(work: Path, output: Path, *, base_steps: int = STEPS, seed: int = SEED) -> None:
    """Trains what is missing in ``work`` and copies the finished parts to ``output``."""
    narrow = work / "narrow"
    narrow.mkdir(parents=True, exist_ok=True)
    _stage(
        narrow / BASE_MODEL / "model.safetensors",
        lambda: train_base(narrow / BASE_MODEL, seed=seed, steps=base_steps),
    )
    base = LlamaForCausalLM.from_pretrained(narrow / BASE_MODEL, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(narrow / BASE_MODEL)
    _stage(
        work / "embedder" / "modules.json",
        lambda: train_embedder(
            work / "embedder",
            tokenizer,
            seed=seed,
            on_step=lambda step, loss: _tell("embedder", step, loss),
        ),
    )
    build_task_adapters(narrow / "adapters" / "tasks", base, tokenizer, seed=seed)
    build_document_adapters(narrow / "adapters" / "documents", base, tokenizer, seed=seed)
    _stage(
        work / BASE_MODEL / "model.safetensors",
        lambda: build_copy_heads(work / BASE_MODEL, base, tokenizer, seed=seed),
    )
    _stage(work / "adapters", lambda: widen_adapters(narrow / "adapters", work / "adapters"))
    _stage(work / "library", lambda: build_library(work / "library", work))
    model = LlamaForCausalLM.from_pretrained(work / BASE_MODEL, dtype=torch.float32)
    build_tool_adapter(work, model, tokenizer, seed=seed)
    for part in (BASE_MODEL, "embedder", "adapters", "library"):
        shutil.rmtree(output / part, ignore_errors=True)
        shutil.copytree(work / part, output / part, ignore=shutil.ignore_patterns(*TRANSIENT))


def build_task_adapters(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    options: TrainingOptions = TASK_OPTIONS,
    steps: int = TASK_STEPS,
) -> None:
    """Writes a PEFT folder for every task."""
    if all((folder / task / "adapter_config.json").exists() for task in TASKS):
        return
    trained = train_task_adapters(
        model, tokenizer, seed=seed, options=options, steps=steps, on_step=_teller("task adapters")
    )
    for task, modules in trained.items():
        write_peft(folder / task, _peft(modules))


def build_document_adapters(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    split: DocumentSplit = "eval",
    options: TrainingOptions = DOCUMENT_OPTIONS,
    steps: int = DOCUMENT_STEPS,
) -> None:
    """Writes a PEFT folder for every document; a group is trained together or not at all."""
    entities = world_entities(split)
    for start in range(0, len(entities), GROUP):
        group = entities[start : start + GROUP]
        folders = [folder / document_id(entity) for entity in group]
        if all((path / "adapter_config.json").exists() for path in folders):
            continue
        trained = train_document_adapters(
            model,
            tokenizer,
            group,
            split="eval" if split == "eval" else "train",
            seed=seed,
            options=replace(options, seed=start),
            steps=steps,
            on_step=_teller(f"documents {start + 1} to {start + len(group)}"),
        )
        for path, modules in zip(folders, trained, strict=True):
            write_peft(path, _peft(modules))


def build_copy_heads(
    folder: Path, base: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> None:
    """Writes the base with copy heads, and its tokenizer."""
    model = with_copy_heads(
        base, tokenizer, seed=seed, on_step=lambda *report: _tell("copy heads", *report)
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def widen_adapters(narrow: Path, folder: Path) -> None:
    """Writes every adapter of the narrow base as one of the base with copy heads."""
    for path in sorted(narrow.glob("*/*")):
        write_peft(folder / path.relative_to(narrow), widened_adapter(read_peft(path)))


def build_library(path: Path, work: Path, *, split: DocumentSplit = "eval") -> None:
    """Puts every PEFT folder of ``work/adapters`` into one library."""
    sources = [
        AdapterSource(_read(work, f"tasks/{task}"), name=task, kind="task") for task in TASKS
    ]
    sources += [
        AdapterSource(
            _read(work, f"documents/{document.id}"),
            name=document.adapter,
            kind="knowledge",
            document_id=document.id,
            metadata={"title": document.title},
        )
        for document in documents(split)
    ]
    with AdapterLibrary.create(
        path, base_model=work / BASE_MODEL, base_name=BASE_MODEL, dtype="float16"
    ) as library:
        library.add_many(sources)


def build_tool_adapter(
    work: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    steps: int = TOOL_STEPS,
) -> None:
    """Trains the tool adapter among the library's others, writes its PEFT folder and adds it."""
    folder = f"tasks/{TOOL_ADAPTER}"
    with AdapterLibrary.open(work / "library") as library:
        if TOOL_ADAPTER in library:
            return
        modules = train_tool_adapter(
            model, tokenizer, library, seed=seed, steps=steps, on_step=_tell_tools
        )
        write_peft(work / "adapters" / folder, _peft(modules))
        library.add(_read(work, folder), name=TOOL_ADAPTER, kind="task")


def _read(work: Path, folder: str) -> PeftAdapter:
    """One PEFT folder, with a source that means something on other machines."""
    return replace(read_peft(work / "adapters" / folder), source=f"{BASE_MODEL}/adapters/{folder}")


def _peft(modules: dict[str, LoraModule]) -> PeftAdapter:
    halves = {
        name: LoraModule(m.lora_A.to(STORE_DTYPE), m.lora_B.to(STORE_DTYPE), m.scaling)
        for name, m in modules.items()
    }
    return PeftAdapter(modules=halves, base_model=BASE_MODEL, config={}, source="lag_engine.tiny")


def _stage(result: Path, make: Callable[[], None]) -> None:
    if result.exists():
        console.print(f"kept {result}")
        return
    started = time.monotonic()
    make()
    console.print(f"made {result} in {time.monotonic() - started:.0f} s")


def _teller(what: str) -> Callable[[int, StepLosses], None]:
    def tell(step: int, losses: StepLosses) -> None:
        _tell(what, step, losses.tokens.mean().item(), losses.silence.mean().item())

    return tell


def _tell_tools(step: int, report: ToolStep) -> None:
    _tell("tools", step, report.tokens, report.wanted, report.foreign, report.silence)


def _tell(what: str, step: int, *losses: float) -> None:
    if (step + 1) % 20 == 0:
        console.print(f"{what}: step {step + 1}, loss " + ", ".join(f"{x:.4f}" for x in losses))


if __name__ == "__main__":
    main()
