"""mttl's own Arrow, from a checkout of its source, as a change to a model of its own.

mttl's model, expert containers, Arrow selector and LoRA run as they are; adapters are added by
its own function, from memory, and exact arrow vectors are put over its prototypes. What its
modules import, a forward pass does not need and is not installed is stood in for by empty modules.
mttl's change to torch's attention, which looks for packed sequences, is taken back, so that the
other variants are not timed with it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from common import same_weights
from libraries import FirstRows, Part
from torch import Tensor, nn
from transformers import LlamaForCausalLM

NEEDLESS = ("azure", "datasets", "einops", "prettytable", "pytorch_lightning", "wandb")
"""Packages that mttl imports and its forward pass never calls."""

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""How far mttl's change of an output may lie from the formula, relative to it, by dtype."""

CHECKED = 3
"""Tokens that it is held against the formula with."""


def mttl_arrow(
    model: LlamaForCausalLM, part: Part, top_k: int, *, checkout: Path, mixes_outputs: bool
) -> nn.Module:
    """Returns a model over the same weights under mttl's Arrow.

    Args:
        model: the base.
        part: whose adapters become its experts.
        top_k: experts of a token.
        checkout: of mttl's repository.
        mixes_outputs: Arrow as it is defined, a weighted sum of the experts' outputs; otherwise
            mttl's default, the product of a weighted sum of A and one of B.

    Raises:
        RuntimeError: where an expert is missing, or a layer does not compute the formula.
    """
    mttl = _imported(checkout)
    selection = mttl("models.containers.selectors").ArrowSelectorConfig(
        top_k=top_k, selector_logging=False, lora_merge_after=mixes_outputs
    )
    experts = mttl("models.expert_model")
    config = experts.MultiExpertModelConfig(selector_config=selection)
    whole = experts.MultiExpertModel.init_from_model(config, same_weights(model))
    for expert in _experts(mttl, part, model.dtype):
        whole.add_expert_instance(expert)
    for name in part.modules():
        container = whole.model.get_submodule(name)
        container.selector.overwrite_prototypes(part.stack(name).arrow)
    _check(mttl, whole, part, top_k, mixes_outputs)
    return _Called(whole).eval()


def checkout_of(text: str) -> Path:
    """Reads the folder of a checkout of mttl."""
    if not (Path(text) / "mttl" / "models").is_dir():
        raise ArgumentTypeError(
            f"expected a checkout of mttl; {text} has no folder mttl/models; "
            "clone github.com/microsoft/mttl and give its folder"
        )
    return Path(text)


def facts_of(checkout: Path) -> dict[str, Any]:
    """Returns the commit of a checkout, and whether torch has opt_einsum, which mttl profits from.

    The commit is None where the folder is none of git's.
    """
    command = ["git", f"--git-dir={checkout / '.git'}", "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    commit = done.stdout.strip() or None
    return {"commit": commit, "opt_einsum": torch.backends.opt_einsum.is_available()}


class _Called(nn.Module):
    """mttl's model, called as a model of Hugging Face is."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.whole, self.config = whole, whole.model.config

    def forward(self, ids: Tensor, **options: Any) -> Any:
        return self.whole(input_ids=ids, **options)


class _StandIns(MetaPathFinder, Loader):
    """Finds packages that are not there: empty modules, whose every name is an empty class."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        known = name.partition(".")[0] in self.names
        return ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leaves the module empty."""


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _imported(checkout: Path) -> Any:
    """Returns what imports mttl's modules from a checkout, by their names below `mttl`."""
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))
    logging.getLogger("mttl").setLevel(logging.ERROR)
    with _torch_unchanged(), _standing_in():
        importlib.import_module("mttl.models.expert_model")
    return lambda name: importlib.import_module(f"mttl.{name}")


@contextmanager
def _standing_in() -> Iterator[None]:
    """Stands in for what is not installed, only while mttl is imported."""
    finder = _StandIns([name for name in NEEDLESS if importlib.util.find_spec(name) is None])
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Empty)]:
            del sys.modules[name]


@contextmanager
def _torch_unchanged() -> Iterator[None]:
    functions = torch.nn.functional
    attention = functions.scaled_dot_product_attention
    precision = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        functions.scaled_dot_product_attention = attention
        torch.set_float32_matmul_precision(precision)


def _experts(mttl: Any, part: Part, dtype: torch.dtype) -> Iterator[Any]:
    library = mttl("models.library.expert")
    modules = part.modules()

    @cache
    def factors(stack: FirstRows) -> list[tuple[Tensor, Tensor]]:
        return [(A.T.contiguous(), B.T.contiguous()) for A, B in stack.factors(dtype)]

    columns = {name: factors(part.stack(name)) for name in modules}
    rank = next(iter(columns.values()))[0][0].shape[1]
    config = mttl("models.modifiers.lora").LoRAConfig(
        modify_modules="|".join(map(re.escape, modules)), lora_rank=rank, lora_alpha=rank
    )
    for i, adapter in enumerate(part.list()):
        info = library.ExpertInfo(adapter.name, expert_config=config)
        weights = {f"{name}.lora_a": pairs[i][0] for name, pairs in columns.items()}
        weights |= {f"{name}.lora_b": pairs[i][1] for name, pairs in columns.items()}
        yield library.Expert(info, weights)


@torch.inference_mode()
def _check(mttl: Any, whole: Any, part: Part, top_k: int, mixes_outputs: bool) -> None:
    """Holds every container against the part: how many experts it has, and what it computes."""
    context = mttl("models.expert_context").InfoContainer
    routing = mttl("models.modifiers.routing").RoutingInfo()
    generator, n = torch.Generator().manual_seed(0), len(part.list())
    for name, width in part.modules().items():
        container = whole.model.get_submodule(name)
        x = torch.randn(1, CHECKED, width.d_in, generator=generator).to(whole.dtype)
        with context(whole, routing):
            change = (container(x) - container.layer(x))[0].float()
        expected = _formula(part.stack(name), x[0].float(), top_k, mixes_outputs)
        error = ((change - expected).norm() / expected.norm()).item()
        if len(container) != n or not error <= CLOSE[whole.dtype]:
            raise RuntimeError(
                f"Expected Arrow over {n} experts; mttl's {name} has {len(container)}, and its "
                f"change of the output is off by {error:.1e} of it."
            )


def _formula(stack: FirstRows, x: Tensor, top_k: int, mixes_outputs: bool) -> Tensor:
    top = (x @ stack.arrow.float().T).abs().topk(top_k, dim=-1)
    weights = torch.softmax(top.values, dim=-1)  # (T, K)
    A = stack.A(top.indices).float()  # (T, K, R, D_in)
    B = stack.B(top.indices).float()  # (T, K, R, D_out)
    if mixes_outputs:
        return torch.einsum("tk,tkro,tkri,ti->to", weights, B, A, x)
    A = torch.einsum("tk,tkri->tri", weights, A)
    B = torch.einsum("tk,tkro->tro", weights, B)
    return torch.einsum("tro,tri,ti->to", B, A, x)
