"""DyPRAG's translator: from a passage's hidden state to its adapter (arXiv 2503.23895)."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lag_engine.adapters import ModuleShape, PeftAdapter
from lag_engine.adapters.base_model import BaseModel, describe_base, is_same_base
from lag_engine.documents.dyprag_factors import ModuleFactors
from lag_engine.documents.passages import Passage, adapter_name, check_distinct
from lag_engine.errors import AdapterMismatchError, DocumentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class TranslatorShape:
    """What a translator was made for.

    Attributes:
        base_model: The base model's name; None if unknown.
        base_fingerprint: Of its linear modules' paths and widths.
        hidden_size: D, of the hidden states that it reads.
        width: Of the nets' hidden layer.
        rank: R of the adapters it makes.
        scaling: Of their updates.
        modules: Full dotted path to widths of each module they update.
    """

    base_model: str | None
    base_fingerprint: str
    hidden_size: int
    width: int
    rank: int
    scaling: float
    modules: Mapping[str, ModuleShape]

    @property
    def types(self) -> dict[str, ModuleShape]:
        """The kinds of modules, by the last part of their paths; a net pair serves each."""
        return {type_of(module): shape for module, shape in self.modules.items()}

    def check(self, model: nn.Module, *, allow_other_base: bool = False) -> None:
        """Refuses a model that the translator was not made for.

        Raises:
            AdapterMismatchError: its modules or widths differ, or its name does.
        """
        found = describe_base(model)  # type: ignore[arg-type]
        if found.fingerprint != self.base_fingerprint:
            raise AdapterMismatchError(
                f"Expected the base model that the translator was trained on, {self.base_model}",
                f"found {found.name} with other modules or widths",
                "load that model, or train a translator for this one",
            )
        if not allow_other_base and not is_same_base(self.base_model, found.name):
            raise AdapterMismatchError(
                f"Expected {self.base_model}, on which the translator was trained",
                f"found {found.name}, of the same modules and widths",
                "if the two are one model, pass allow_other_base=True",
            )


class Translator(nn.Module):
    """Makes a passage's adapter in one pass; a two-layer net for each module type and factor.

    A net reads the passage's last hidden state joined with the module's layer. Last tokens are much
    alike, often a full stop: read as they are, passages differ by little, the nets learn what all
    have in common, and then every passage's adapter is the same. So here the mean over the
    training passages is taken off and the rest brought to the size of one, and the layer is told
    as a share of the number of layers.

    Args:
        shape: What it is made for.
        starts: For each module type the lora_A that all passages start from (R, D_in); lora_B
            starts at zero, as PEFT has it.
        states: Last hidden states of the passages it will be trained on (N, D).
        seed: Of the first layers' start.
    """

    mean: Tensor
    size: Tensor

    def __init__(
        self,
        shape: TranslatorShape,
        starts: Mapping[str, Tensor] | None = None,
        *,
        states: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shape = shape
        states = torch.zeros(1, shape.hidden_size) if states is None else states
        mean = states.mean(0)
        self.register_buffer("mean", mean.clone())  # (D,)
        self.register_buffer("size", (states - mean).square().mean().sqrt().clamp(min=1e-3))
        layers = [layer_of(module) for module in shape.modules]
        self._n_layers = max(layers, default=0) + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nets = {
                kind: nn.ModuleDict(
                    {
                        "A": self._net(shape.rank * widths.d_in),
                        "B": self._net(widths.d_out * shape.rank),
                    }
                )
                for kind, widths in shape.types.items()
            }
        self.nets = nn.ModuleDict(nets)
        for kind, start in (starts or {}).items():
            last: Any = nets[kind]["A"][-1]  # type: ignore[index]
            last.bias.data.copy_(start.flatten())

    @property
    def fingerprint(self) -> str:
        """A hash of what it is made for and of its weights."""
        hashed = hashlib.sha256(json.dumps(asdict(self.shape), sort_keys=True).encode())
        for name, tensor in self.state_dict().items():
            hashed.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return hashed.hexdigest()

    def forward(self, hidden: Tensor) -> dict[str, ModuleFactors]:
        """Returns the factors of each module.

        Args:
            hidden: Passages' last hidden states (G, D).
        """
        rank = self.shape.rank
        hidden = (hidden - self.mean) / self.size
        made = {}
        for module, (d_in, d_out) in self.shape.modules.items():
            layer = hidden.new_full((len(hidden), 1), layer_of(module) / self._n_layers)
            joined = torch.cat([hidden, layer], dim=1)  # (G, D + 1)
            nets: Any = self.nets[type_of(module)]
            made[module] = ModuleFactors(
                nets["A"](joined).view(-1, rank, d_in),
                nets["B"](joined).view(-1, d_out, rank),
                self.shape.scaling,
            )
        return made

    @torch.no_grad()
    def adapters(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        passages: Iterable[Passage],
    ) -> dict[str, PeftAdapter]:
        """Returns each passage's adapter under its name; no gradients, no training.

        Args:
            model: The base model, with nothing applied; of an engine, inside `LAGEngine.lend`.
            tokenizer: The model's.
            passages: Texts; pairs and rewrites are not read.

        Raises:
            DocumentError: Two passages have one id, or one is longer than the model's context.
        """
        given = list(passages)
        check_distinct(given)
        adapters = {}
        for passage in given:
            factors = self(last_hidden(model, tokenizer, passage)[None])
            modules = {module: part.adapter(0) for module, part in factors.items()}
            adapters[adapter_name("dyprag", passage.id)] = PeftAdapter(
                modules, self.shape.base_model
            )
        return adapters

    def _net(self, n_out: int) -> nn.Sequential:
        net = nn.Sequential(
            nn.Linear(self.shape.hidden_size + 1, self.shape.width),
            nn.ReLU(),
            nn.Linear(self.shape.width, n_out),
        )
        last: Any = net[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return net


@torch.no_grad()
def last_hidden(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passage: Passage
) -> Tensor:
    """The last layer's hidden state of the passage's last token (D,); float32.

    Raises:
        DocumentError: The passage is longer than the model's context.
    """
    encoded: Any = tokenizer(passage.titled_text, verbose=False)
    ids = encoded["input_ids"]
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if length and len(ids) > length:
        raise DocumentError(
            f"Expected a passage of at most {length} tokens, which the model reads",
            f"found {len(ids)} in {passage.id!r}",
            "split it into shorter passages; nothing is ever cut off",
        )
    embeddings: Any = model.get_input_embeddings()
    input_ids = torch.tensor([ids], device=embeddings.weight.device)
    decoder: Any = model.get_decoder()
    hidden: Tensor = decoder(input_ids=input_ids, use_cache=False).last_hidden_state
    return hidden[0, -1].float()


def start_of(lora_A: Tensor, rank: int) -> Tensor:
    """The directions that many adapters' lora_A have in common, at the size of PEFT's start.

    PRAG adapters that began from one lora_A still lie near it, and a library keeps their updates
    only; so the translator begins from the top right singular vectors of them all.

    Args:
        lora_A: Of many adapters, one under another (n, D_in).
        rank: R.

    Returns:
        (R, D_in).
    """
    rows = torch.linalg.svd(lora_A.double(), full_matrices=False).Vh[:rank]
    start: Tensor = (rows / math.sqrt(3)).float()
    return start


def type_of(module: str) -> str:
    """The kind of a module: the last part of its path."""
    return module.rpartition(".")[2]


def layer_of(module: str) -> int:
    """The number of a module's layer; 0 outside of layers."""
    found = _LAYER.search(module)
    return int(found[1]) if found else 0


def shape_for(
    base: BaseModel,
    modules: Mapping[str, ModuleShape],
    *,
    hidden_size: int,
    width: int,
    rank: int,
    scaling: float,
) -> TranslatorShape:
    """The shape of a translator for adapters of these modules.

    Raises:
        AdapterMismatchError: modules of one type differ in width.
    """
    by_type: dict[str, ModuleShape] = {}
    for module, found in modules.items():
        if by_type.setdefault(type_of(module), found) != found:
            raise AdapterMismatchError(
                f"Expected modules named {type_of(module)!r} to have the same widths in all layers",
                f"found {tuple(by_type[type_of(module)])} and {tuple(found)}",
                "train PRAG on other targets",
            )
    assert base.fingerprint is not None
    return TranslatorShape(
        base.name, base.fingerprint, hidden_size, width, rank, scaling, dict(modules)
    )
