"""Where the tool adapter's training starts: attention that copies, set by regression.

The base model cannot repeat a text it has just read (5 % of the tokens of a repeated random
sequence), and 20 minutes of training from PEFT's start did not teach it to an adapter. Copying
needs two layers that are of no use alone, so both are put in place here and training refines them
(induction heads: Olsson et al., arXiv 2209.11895):

- Heads of layer 0 attend to the token itself and to the first, second and third before it, whatever
  they are: a rotary query and key that are constant are turned to peak at one distance. What they
  carry on is a token's code, its embedding in the ``RANK`` whitened directions that tell bytes
  apart best.
- Heads of layers 2 and 3 look for the place whose three tokens *before* it are those just written,
  and write that place's token. The codes are read from the layers' inputs by ridge regression.

All of it acts on bytes and is regressed to nothing on the tokens of the other tasks' prompts, which
are words: an adapter that is not silent there attracts their routing, and ruins their answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lag_engine.adapters import LoraModule
from lag_engine.tiny.updates import Factors, applied

RANK = 16
POSITION_HEADS = {2: 0, 3: 1, 5: 2, 0: 3}
"""Head of layer 0 -> the distance it attends to; the heads the base's reading misses least."""
COPY_LAYERS, COPY_HEADS = (2, 3), (1, 2)
MATCHED = 3
"""Tokens that must agree."""
POSITION_SIZE, CODE_SIZE, MATCH_SIZE, WRITE_SIZE = 400.0, 16.0, 100.0, 100.0
FAST_PAIRS, SLOW_PAIRS = range(6), range(8, 16)
"""Rotary pairs that tell neighbours apart, and those that hardly turn over a prompt's length."""
BYTES = slice(7, 263)
FOREIGN_WEIGHT = 0.3
"""Of all foreign tokens together in the regressions, against those of the texts."""


def copying_start(
    model: LlamaForCausalLM,
    texts: Sequence[list[int]],
    foreign: Sequence[list[int]],
    *,
    scaling: float,
    seed: int,
) -> dict[str, LoraModule]:
    """An adapter of every attention projection under which the model copies.

    Args:
        model: The base; float32; left as it was.
        texts: Token ids of prompts to copy in.
        foreign: Token ids of prompts to be silent on.
        scaling: The adapter's.
        seed: Of what is left random: unused rows of ``lora_A``.
    """
    start = _Start(model, texts, foreign)
    for layer in COPY_LAYERS:
        start.add_copying(layer)
    start.fill(torch.Generator().manual_seed(seed))
    return {
        name: LoraModule(A.contiguous(), (B / scaling).contiguous(), scaling)
        for name, (A, B) in start.factors.items()
    }


class _Start:
    """The factors, layer by layer, each regressed on the layers below it."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        texts: Sequence[list[int]],
        foreign: Sequence[list[int]],
    ) -> None:
        self.model = model
        self.texts, self.foreign = texts, foreign
        self.factors: Factors = {}
        self.width = model.config.hidden_size
        self.head_width = self.width // model.config.num_attention_heads
        embedded = model.model.layers[0].input_layernorm(model.model.embed_tokens.weight)
        self._inputs: Tensor = embedded.detach()  # (V, D)
        self._counts = _counts(texts, len(self._inputs))
        self._foreign_counts = _counts(foreign, len(self._inputs))
        is_byte = torch.zeros(len(self._inputs))
        is_byte[BYTES] = 1
        self._is_byte = is_byte * (self._foreign_counts == 0)  # (V,)
        self._add_positions()

    def _add_positions(self) -> None:
        constant = self._constant_direction()
        for name, phase in (("q_proj", 0), ("k_proj", 1)):
            A, B = self._empty(0, name)
            A[0] = constant
            for head, distance in POSITION_HEADS.items():
                for pair in FAST_PAIRS:
                    angle = phase * distance * 10000 ** (-2 * pair / self.head_width)
                    B[self._turned(head, pair), 0] = math.sqrt(POSITION_SIZE) * torch.tensor(
                        [math.cos(angle), math.sin(angle)]
                    )
        A, B = self._empty(0, "v_proj")
        A[:] = self._code_directions()
        for head in POSITION_HEADS:
            B[self._head(head)] = CODE_SIZE * torch.eye(RANK)
        self._empty(0, "o_proj")
        self._codes = self._inputs @ A.T  # (V, R)

    def add_copying(self, layer: int) -> None:
        """Puts the heads of one layer in place, given those below."""
        read = self._readouts(layer)  # distance -> (R, D)
        generator = torch.Generator().manual_seed(layer)
        mixes = [
            torch.linalg.qr(torch.randn(RANK, RANK, generator=generator)).Q for _ in range(MATCHED)
        ]
        size = math.sqrt(MATCH_SIZE * math.sqrt(self.head_width) / (RANK * MATCHED))
        for name, shift in (("q_proj", 0), ("k_proj", 1)):
            A, B = self._empty(layer, name)
            A[:] = sum(mix @ read[i + shift] for i, mix in enumerate(mixes))
            for head in COPY_HEADS:
                for i, pair in enumerate(SLOW_PAIRS):
                    places = self._turned(head, pair)
                    B[places[0], i] = B[places[1], i + RANK // 2] = size
        A, B = self._empty(layer, "v_proj")
        A[:] = read[0]
        to_output, written = self._empty(layer, "o_proj")
        for head in COPY_HEADS:
            B[self._head(head)] = torch.eye(RANK)
            to_output[:, self._head(head)] = torch.eye(RANK) / len(COPY_HEADS)
        written[:] = WRITE_SIZE * self._token_directions().T

    def fill(self, generator: torch.Generator) -> None:
        """Gives every other row of ``lora_A`` the random start that PEFT gives it."""
        bound = 1 / math.sqrt(self.width)
        for layer in range(self.model.config.num_hidden_layers):
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                path = _path(layer, name)
                A, _ = self.factors.get(path) or self._empty(layer, name)
                empty = A.abs().sum(-1) == 0
                A[empty] = torch.empty(int(empty.sum()), self.width).uniform_(
                    -bound, bound, generator=generator
                )

    def _silent_fit(self, targets: Tensor) -> Tensor:
        """The map (D, ...) of layer 0's inputs to the targets on bytes, to 0 on foreign tokens."""
        foreign = self._foreign_counts / self._foreign_counts.max()
        weights = 3 * self._is_byte + (100 * foreign).sqrt() + 0.3 * (foreign > 0)
        weighted = self._inputs * weights[:, None]
        gram = weighted.T @ self._inputs + torch.eye(self.width)
        found: Tensor = torch.linalg.solve(gram, weighted.T @ (targets * self._is_byte[:, None]))
        return found

    def _constant_direction(self) -> Tensor:
        """A direction on which every byte's input to layer 0 is nearly 1; (D,)."""
        return self._silent_fit(torch.ones(len(self._inputs), 1))[:, 0]

    def _code_directions(self) -> Tensor:
        """Directions that tell bytes apart: the whitened ones of their widest spread; (R, D)."""
        shares = self._byte_shares()
        centred = self._inputs - (shares * self._inputs).sum(0)
        values, vectors = torch.linalg.eigh((centred * shares).T @ centred)
        codes = centred @ (vectors[:, -RANK:] / values[-RANK:].sqrt())  # (V, R)
        directions = self._silent_fit(codes)  # (D, R)
        sizes = (self._inputs @ directions).square().sum(-1) * self._is_byte
        occurring = self._counts * self._is_byte
        mean_size = (sizes * occurring).sum() / occurring.sum()
        return (directions * (RANK / mean_size).sqrt()).T

    def _byte_shares(self) -> Tensor:
        """How much each byte counts, the rarer more than it occurs; (V, 1); sums to 1."""
        shares = (self._counts + 20).sqrt() * self._is_byte
        return (shares / shares.sum())[:, None]

    def _token_directions(self) -> Tensor:
        """What to write for a code so that its token becomes likely; (R, D)."""
        weight = self.model.lm_head.weight.detach()
        shares = self._byte_shares()
        weighted = self._codes * shares
        centred = weight - (shares * weight).sum(0)
        gram = weighted.T @ self._codes + 1e-3 * torch.eye(RANK)
        found: Tensor = torch.linalg.solve(gram, weighted.T @ centred)
        return found

    @torch.no_grad()
    def _readouts(self, layer: int) -> list[Tensor]:
        """Maps (R, D) from the layer's inputs to the codes of the token 0, 1, ... places back."""
        with applied(self.model, self.factors):
            x, ids_back = self._collect(self.texts, layer)
            silent, _ = self._collect(self.foreign, layer)
        silent = silent * math.sqrt(FOREIGN_WEIGHT * len(x) / len(silent))
        gram = x.T @ x + silent.T @ silent + 10 * torch.eye(self.width)
        return [torch.linalg.solve(gram, x.T @ self._codes[back]).T for back in ids_back]

    def _collect(self, sequences: Sequence[list[int]], layer: int) -> tuple[Tensor, Tensor]:
        """A layer's inputs (P, D), and the tokens 0, 1, ... places back (MATCHED + 1, P)."""
        inputs, tokens = [], []
        for ids in sequences:
            states = self.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            normed = self.model.model.layers[layer].input_layernorm(states.hidden_states[layer])
            inputs.append(normed[0, MATCHED:])
            back = torch.stack([torch.tensor(ids).roll(i) for i in range(MATCHED + 1)])
            tokens.append(back[:, MATCHED:])
        return torch.cat(inputs), torch.cat(tokens, 1)

    def _empty(self, layer: int, name: str) -> tuple[Tensor, Tensor]:
        factors = (torch.zeros(RANK, self.width), torch.zeros(self.width, RANK))
        self.factors[_path(layer, name)] = factors
        return factors

    def _head(self, head: int) -> slice:
        first = head * self.head_width
        return slice(first, first + RANK)

    def _turned(self, head: int, pair: int) -> list[int]:
        """The two dimensions of a head that one rotary frequency turns."""
        first = head * self.head_width + pair
        return [first, first + self.head_width // 2]


def _counts(sequences: Sequence[list[int]], size: int) -> Tensor:
    tokens = torch.tensor([token for ids in sequences for token in ids])
    return torch.bincount(tokens, minlength=size).float()


def _path(layer: int, name: str) -> str:
    return f"model.layers.{layer}.self_attn.{name}"
