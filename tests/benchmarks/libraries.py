"""Random libraries, made once and kept, and the part of one that a benchmark routes over.

Random adapters are the worst case: none is like another, so tokens share few candidates.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import SHAPES, build_model
from torch import Tensor
from transformers import LlamaForCausalLM

from lag_engine import AdapterLibrary, PeftAdapter
from lag_engine.adapters import AdapterSource, LoraModule, ModuleStack
from lag_engine.adapters.stack import Places

MODULES = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
SCALING = 2.0
ROWS_TOUCHED = 256


class Recipe(NamedTuple):
    """What a random library is made of.

    Attributes:
        shape: of the model; one of `SHAPES`.
        adapters: how many.
        rank: of each.
        modules: which linears of a layer; one of `MODULES`.
        layers: the first so many layers have adapters; 0 for all.
        store: the library's dtype.
    """

    shape: str
    adapters: int
    rank: int = 8
    modules: str = "attention"
    layers: int = 0
    store: str = "bfloat16"

    @property
    def name(self) -> str:
        """The name of its folder among kept libraries."""
        return "-".join(map(str, self))

    @property
    def own_layers(self) -> int:
        """How many layers have factors of their own."""
        return self.layers or SHAPES[self.shape]["layers"]

    def sources(self, model: LlamaForCausalLM) -> Iterator[AdapterSource]:
        """Yields the adapters, named for their number; seeds do not depend on how many."""
        for i in range(self.adapters):
            yield AdapterSource(self.adapter(model, i), name=f"adapter-{i}")

    def adapter(self, model: LlamaForCausalLM, seed: int) -> PeftAdapter:
        """Returns one random LoRA."""
        generator = torch.Generator().manual_seed(seed)
        modules = {}
        for name, module in model.named_modules():
            if name.endswith(MODULES[self.modules]) and layer_of(name) < self.own_layers:
                lora_A = torch.randn(self.rank, module.in_features, generator=generator)
                lora_B = torch.randn(module.out_features, self.rank, generator=generator)
                scale_in, scale_out = module.in_features**-0.5, 0.1 * self.rank**-0.5
                modules[name] = LoraModule(lora_A * scale_in, lora_B * scale_out, SCALING)
        return PeftAdapter(modules)


@contextmanager
def opened(recipe: Recipe, cache: Path | None) -> Iterator[AdapterLibrary]:
    """Yields the library, read-only; taken from the cache or left there where there is one."""
    with ExitStack() as held:
        folder = cache or Path(held.enter_context(tempfile.TemporaryDirectory()))
        path = folder / recipe.name
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            making = Path(held.enter_context(tempfile.TemporaryDirectory(dir=folder))) / "library"
            model = build_model(recipe.shape, device="meta")
            with AdapterLibrary.create(making, base_model=model, dtype=recipe.store) as library:
                library.add_many(recipe.sources(model), progress=False)
            making.rename(path)
        yield held.enter_context(AdapterLibrary.open(path, read_only=True))


class Part:
    """A library's first n adapters over all layers of a model, as a bank reads them.

    Where the library has adapters for fewer layers, the others use those factors over again, in
    turn. What is scanned for every token, compact arrow vectors, is made for each layer anew, so
    that a step reads as many bytes of memory as if all factors were distinct.

    Args:
        library: stays open.
        recipe: of the library.
        n: how many adapters.
    """

    generation = 0
    mixtures = ()

    def __init__(self, library: AdapterLibrary, recipe: Recipe, n: int) -> None:
        self._library, self._recipe, self._n = library, recipe, n
        self._stacks: dict[str, FirstRows] = {}

    def snapshot(self) -> Part:
        """Returns itself: it never changes."""
        return self

    def list(self, kind: str | None = None) -> list[Any]:
        """Returns the first adapters; all are task adapters."""
        return list(self._library.list("task"))[: self._n] if kind in (None, "task") else []

    def modules(self, kind: str | None = None) -> dict[str, Any]:
        """Returns the modules of every layer, with their widths."""
        if kind not in (None, "task"):
            return {}
        stored = self._library.modules("task")
        layers, own = SHAPES[self._recipe.shape]["layers"], self._recipe.own_layers
        return {
            in_layer(name, layer): stored[name]
            for layer in range(layers)
            for name in stored
            if layer_of(name) == layer % own
        }

    def stack(self, module: str, kind: str = "task") -> FirstRows:
        """Returns a module's first adapters; those of one stored module are one object."""
        stored = in_layer(module, layer_of(module) % self._recipe.own_layers)
        if stored not in self._stacks:
            self._stacks[stored] = FirstRows(self._library.stack(stored, "task"), self._n)
        return self._stacks[stored]

    def touch(self) -> None:
        """Reads all factors, so that none is read from disk while something is timed."""
        for module in self._library.modules("task"):
            stack = self.stack(module)
            for rows in torch.arange(self._n).split(ROWS_TOUCHED):
                stack.A(rows)
                stack.B(rows)


class FirstRows:
    """The first n rows of a module's stack."""

    def __init__(self, stack: ModuleStack, n: int) -> None:
        self._stack, self._n = stack, n
        self.names = stack.names[:n]
        self.arrow, self.singular = stack.arrow[:n], stack.singular[:n]
        self.A, self.B = stack.A, stack.B

    @cached_property
    def places(self) -> Places | None:
        """Where the factors lie in memory."""
        found = self._stack.places
        if found is None:
            return None
        A, B, arrow, ranks = (part[: self._n].contiguous() for part in found[:4])
        return Places(A, B, arrow, ranks, found.dtype, found.files)

    def factors(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields each adapter's A (R, D_in) and B (D_out, R), contiguous."""
        for row in torch.arange(self._n):
            A, B = self.A(row[None])[0], self.B(row[None])[0]
            yield A.to(dtype), B.T.contiguous().to(dtype)


def layer_of(module: str) -> int:
    """Returns the number of the layer that a module is in."""
    return int(module.split(".")[2])


def in_layer(module: str, layer: int) -> str:
    """Returns the name of the same module in another layer."""
    parts = module.split(".")
    return ".".join([*parts[:2], str(layer), *parts[3:]])
