"""Base models from a config, adapters from a seed, and a library that lives in memory."""

from __future__ import annotations

import os

# Triton asks once, as it is imported, whether its kernels run in its interpreter, on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lag_engine.adapters.spectral import to_spectral
from lag_engine.adapters.stack import Places

# The models are tiny, and a forked child (see the crash tests) would wait for ever for OpenMP
# threads that the fork did not copy.
torch.set_num_threads(1)

VOCABULARY = 64


class Lora(NamedTuple):
    """One module's update as PEFT stores it: scaling * lora_B @ lora_A."""

    lora_A: Tensor
    lora_B: Tensor
    scaling: float

    @property
    def delta(self) -> Tensor:
        return self.scaling * self.lora_B @ self.lora_A  # (D_out, D_in)


@dataclass(frozen=True)
class Adapter:
    name: str
    kind: str
    modules: dict[str, Lora]


class Shape(NamedTuple):
    d_in: int
    d_out: int


class MemoryStack:
    """The rows of one module and kind as plain tensors; counts the rows it hands out."""

    def __init__(self, names: Sequence[str], loras: Sequence[Lora], dtype: torch.dtype) -> None:
        self.names = tuple(names)
        forms = [to_spectral(*lora, dtype=torch.float64) for lora in loras]
        rank = max(len(form.singular) for form in forms)
        self._A = torch.stack([_padded(form.A, rank) for form in forms]).to(dtype)
        self._B = torch.stack([_padded(form.B, rank) for form in forms]).to(dtype)
        self.singular = torch.stack([_padded(form.singular, rank) for form in forms]).to(
            torch.promote_types(dtype, torch.float32)
        )
        self.arrow = self._A[:, 0].contiguous()
        self.places = Places(
            *map(_addresses, (self._A, self._B, self.arrow)), _ranks(self._A), dtype
        )
        self.rows_read: list[int] = []

    def A(self, rows: Tensor) -> Tensor:
        self.rows_read.extend(rows.flatten().tolist())
        return self._A[rows]

    def B(self, rows: Tensor) -> Tensor:
        return self._B[rows]


def _addresses(factors: Tensor) -> Tensor:
    return factors.data_ptr() + factors.stride(0) * factors.itemsize * torch.arange(len(factors))


def _ranks(factors: Tensor) -> Tensor:
    return torch.full((len(factors),), factors.shape[1])


class MemoryLibrary:
    """What `AdapterBank` asks of a library, over adapters in memory."""

    def __init__(self, adapters: Iterable[Adapter], dtype: torch.dtype = torch.float32) -> None:
        self.adapters = tuple(adapters)
        self.dtype = dtype
        self.generation = 1

    def replace(self, adapters: Iterable[Adapter]) -> None:
        self.adapters = tuple(adapters)
        self.generation += 1

    def snapshot(self) -> MemorySnapshot:
        return MemorySnapshot(self.adapters, self.dtype, self.generation)


@dataclass(frozen=True)
class MemorySnapshot:
    """The adapters of a `MemoryLibrary` at one generation."""

    adapters: tuple[Adapter, ...]
    dtype: torch.dtype
    generation: int
    mixtures: tuple[str, ...] = ()

    def list(self, kind=None):
        return [adapter for adapter in self.adapters if kind in (None, adapter.kind)]

    def modules(self, kind=None):
        return {
            module: Shape(lora.lora_A.shape[1], lora.lora_B.shape[0])
            for adapter in self.list(kind)
            for module, lora in adapter.modules.items()
        }

    def stack(self, module, kind):
        members = [adapter for adapter in self.list(kind) if module in adapter.modules]
        loras = [adapter.modules[module] for adapter in members]
        return MemoryStack([adapter.name for adapter in members], loras, self.dtype)

    def prefetch(self, names):
        assert {adapter.name for adapter in self.adapters}.issuperset(names)


def _padded(part: Tensor, rank: int) -> Tensor:
    padding = part.new_zeros((rank - part.shape[0], *part.shape[1:]))
    return torch.cat([part, padding])


def random_lora(
    generator: torch.Generator, shape: Sequence[int], *, rank: int, scaling: float = 2.0
) -> Lora:
    d_in, d_out = shape
    lora_A = torch.randn(rank, d_in, generator=generator, dtype=torch.float64) / d_in**0.5
    lora_B = torch.randn(d_out, rank, generator=generator, dtype=torch.float64) / rank**0.5
    return Lora(lora_A, lora_B, scaling)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_WIDTHS, num_key_value_heads=2)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_WIDTHS, num_key_value_heads=2)),
    "gemma": lambda: GemmaForCausalLM(
        GemmaConfig(**_WIDTHS, num_key_value_heads=1, head_dim=8, pad_token_id=0)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
        )
    ),
}
_WIDTHS = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}

TARGETS = {
    "llama": ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj"),
    "qwen2": ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj"),
    "gemma": ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
}


@pytest.fixture
def make_model() -> Callable[..., PreTrainedModel]:
    """Builds a two-layer model of hidden size 32; biases are random, so that they count."""

    def make(family: str = "llama", *, seed: int = 0, dtype=torch.float32) -> PreTrainedModel:
        torch.manual_seed(seed)
        model = MODELS[family]().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.2)
        return model.to(dtype)

    return make


@pytest.fixture
def make_adapters() -> Callable[..., list[Adapter]]:
    """Builds random adapters of mixed rank, scaling and target modules for a model's family.

    Task adapters update the first targets, knowledge adapters the last, and one module of each
    layer belongs to both.
    """

    def make(family: str = "llama", *, tasks: int = 7, documents: int = 9, seed: int = 1):
        generator = torch.Generator().manual_seed(seed)
        model = MODELS[family]()
        targets = {"task": TARGETS[family][:3], "knowledge": TARGETS[family][2:]}
        adapters = []
        for kind, prefix, count in (("task", "task", tasks), ("knowledge", "doc", documents)):
            for i in range(count):
                modules = {
                    name: random_lora(
                        generator,
                        _widths(module),
                        rank=1 + (i + j) % 6,
                        scaling=0.5 + (i % 3) / 2,
                    )
                    for j, (name, module) in enumerate(model.named_modules())
                    if name.endswith(targets[kind]) and (i + j) % 4
                }
                adapters.append(Adapter(f"{prefix}{i}", kind, modules))
        return adapters

    return make


@pytest.fixture
def make_stack() -> Callable[..., MemoryStack]:
    """Builds one module's random stack."""

    def make(n: int = 12, *, d_in: int = 16, d_out: int = 10, rank: int = 4, seed: int = 0, **kw):
        generator = torch.Generator().manual_seed(seed)
        loras = [
            random_lora(generator, (d_in, d_out), rank=1 + i % rank, scaling=0.5 + i % 3)
            for i in range(n)
        ]
        return MemoryStack([f"a{i}" for i in range(n)], loras, kw.get("dtype", torch.float64))

    return make


@pytest.fixture
def memory_library() -> type[MemoryLibrary]:
    return MemoryLibrary


@pytest.fixture
def token_ids() -> Callable[..., Tensor]:
    """Builds random token ids; (B, T)."""

    def make(n_rows: int = 1, n_tokens: int = 9, *, seed: int = 3) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(3, VOCABULARY, (n_rows, n_tokens), generator=generator)

    return make


def _widths(module) -> tuple[int, int]:
    """The (D_in, D_out) of a linear module; Conv1D stores the transpose of nn.Linear's weight."""
    if type(module).__name__ == "Conv1D":
        return tuple(module.weight.shape)
    return module.weight.shape[1], module.weight.shape[0]


class OnDisk(NamedTuple):
    """A random model with the tiny world's tokenizer, PEFT folders, and a library of them."""

    model: Path
    adapters: Path
    library: Path


@pytest.fixture(scope="session")
def on_disk(tmp_path_factory) -> OnDisk:
    """Two task adapters `qa` and `slots`, and knowledge adapters `doc-0` to `doc-2` of `d0`..."""
    from lag_engine import AdapterLibrary, PeftAdapter, write_peft
    from lag_engine.adapters import AdapterSource, LoraModule
    from lag_engine.tiny.tokenizer import build_tokenizer

    root = OnDisk(*(tmp_path_factory.mktemp("disk") / part for part in OnDisk._fields))
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(_WIDTHS | {"vocab_size": len(tokenizer)})))
    model.save_pretrained(root.model)
    tokenizer.save_pretrained(root.model)
    sources = []
    for i, name in enumerate(("qa", "slots", "doc-0", "doc-1", "doc-2")):
        generator = torch.Generator().manual_seed(i)
        part = "mlp" if name.startswith("doc") else "attn"
        modules = {
            path: LoraModule(*random_lora(generator, _widths(module), rank=2))
            for path, module in model.named_modules()
            if part in path and hasattr(module, "weight")
        }
        write_peft(root.adapters / name, PeftAdapter(modules, str(root.model), {}, name))
        document_id = f"d{i - 2}" if part == "mlp" else None
        kind = "knowledge" if document_id else "task"
        sources.append(AdapterSource(root.adapters / name, kind=kind, document_id=document_id))
    with AdapterLibrary.create(root.library, base_model=root.model) as library:
        library.add_many(sources, progress=False)
    return root


ENCODED_TEXTS = ("Rosa is a nurse.", "Hector is a teacher.", "The city is old.")


@pytest.fixture(scope="session")
def encoded(on_disk, tmp_path_factory) -> OnDisk:
    """The same with passages `p0` to `p2` encoded by PRAG and Poly-PRAG, and DyPRAG's translator.

    Their texts are `ENCODED_TEXTS`.
    """
    from shutil import copytree

    from lag_engine import (
        PRAG,
        AdapterLibrary,
        DyPRAG,
        DyPRAGSettings,
        LAGEngine,
        Passage,
        PolyPRAG,
        PolyPRAGSettings,
        PRAGSettings,
        save_translator,
        train_translator,
    )

    path = copytree(on_disk.library, tmp_path_factory.mktemp("encoded") / "library")
    passages = [Passage(f"p{i}", text) for i, text in enumerate(ENCODED_TEXTS)]
    quick = {"progress": False}
    mixing = PolyPRAGSettings(n_latents=4, top_k=2, epochs=2, learning_rate=0.02)
    with (
        AdapterLibrary.open(path) as library,
        LAGEngine.from_pretrained(on_disk.model, library=library) as engine,
    ):
        PRAG.from_engine(engine, settings=PRAGSettings(learning_rate=0.02), **quick).encode(
            passages
        )
        PolyPRAG.from_engine(engine, settings=mixing, **quick).encode(passages)
        train = DyPRAGSettings(learning_rate=0.01, epochs=2)
        translator = engine.lend(
            lambda model: train_translator(
                model, engine.tokenizer, library, passages, settings=train, **quick
            )
        )
        save_translator(translator, path / DyPRAG.FOLDER)
    return OnDisk(on_disk.model, on_disk.adapters, path)


class KillableLines:
    """Runs actions under a line tracer; one that should die does so in a forked child.

    Args:
        files: how the names of the files end whose lines count.
    """

    def __init__(self, *files: str) -> None:
        self._files = files

    def count(self, action: Callable[[], object]) -> int:
        """How many lines of the files the action runs."""
        return self._run(action, kill_at=-1)

    def kill(self, action: Callable[[], object], line: int) -> bool:
        """Kills the action (`kill -9`) at its given line; False if it ended before that."""
        with warnings.catch_warnings():
            # Newer Pythons warn of any fork beside threads; the child uses none of them.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            code = 1
            try:
                self._run(action, kill_at=line)
                code = 0
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the action itself failed"
        return os.WIFSIGNALED(status)

    def _run(self, action: Callable[[], object], kill_at: int) -> int:
        n_lines = 0

        def trace(frame, event, _):
            nonlocal n_lines
            if not frame.f_code.co_filename.endswith(self._files):
                return None
            if event == "line":
                n_lines += 1
                if n_lines == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            action()
        finally:
            sys.settrace(before)
        return n_lines


@pytest.fixture(scope="session")
def killable_lines() -> type[KillableLines]:
    """Makes what runs actions that are killed at a line of some files."""
    return KillableLines
