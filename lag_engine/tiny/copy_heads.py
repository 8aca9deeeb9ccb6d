"""Makes the base wider: new heads that copy what stands in the prompt, beside the old model.

The base was never good at repeating what it has not learnt, and no adapter of rank 16 could teach
it. Copying needs two layers that are of no use alone (induction heads: Olsson et al., arXiv
2209.11895), so both are put in place here, in dimensions and heads of their own:

- Every token carries a code. Heads of layer 0 look one, two and three tokens back, whatever these
  are, and note their codes: a constant query and key, turned by the rotary embedding, peak at one
  distance.
- Heads of layer 1 look for the place whose three tokens before it are those just written, and
  write that place's code, which the output layer reads. Where nothing matches they look at the
  begin token, which has no code.
- Heads of the layers above write in the same way what they look at; where they look is trained.

What the new dimensions hold is small against the old, so that a norm hardly notices it, and each
norm's weight makes it about 1: the old dimensions compute what they did, to a part in a thousand,
until the new heads write. So adapters of the old base are adapters of the new one, padded with
zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad
from transformers import LlamaConfig, LlamaForCausalLM

from lag_engine.adapters import LoraModule, PeftAdapter

NEW_WIDTH, NEW_HEADS, HEAD_WIDTH = 128, 4, 32
EMBEDDED, BEGIN_SIZE, NOTED, COPIED = 2.0**-6, 0.25, 1.0, 8.0
"""Sizes of what the new dimensions hold: in embeddings, which are small themselves; at the begin
token; from layer 0 on; and of what is copied."""

CONSTANT, BEGIN = 0, 1
CODE = slice(2, 34)
BEFORE = (slice(34, 58), slice(58, 78), slice(78, 94))
"""The codes of the tokens one, two and three before, with fewer dimensions the further back."""
WRITTEN = slice(94, 126)
"""The code of what should come next."""

FAST_PAIRS = range(6)
"""Rotary pairs that tell neighbours apart."""
SLOW_PAIRS = range(8, 15)
"""Rotary pairs that turn little over the distance between a request and its call."""
SINK_PAIR = 15
POSITION_SIZE, MATCH_SIZE, COPY_LOGIT = 600.0, 60.0, 30.0
"""Attention logits of the right distance and of a whole match; output logit of what is copied."""
MATCH_SHARES = (1.0, 0.9, 0.8)
"""How much each of the matched tokens counts, the nearest first."""
MATCH_SINK, UPPER_SINK = 43.2, 9.0
"""Attention logits of the begin token: below a match of three, above one of two."""
UPPER_SPREAD = 0.02
SPECIAL_TOKENS = 7
"""Tokens at the vocabulary's begin that have no code: they are never copied."""


def widened(model: LlamaForCausalLM, texts: Sequence[list[int]], *, seed: int) -> LlamaForCausalLM:
    """Returns the model with copy heads; the one given is left as it was.

    Args:
        model: The base; float32; as many key heads as heads; first token of the texts: its begin.
        texts: Token ids of prompts, from which the norms' sizes are taken.
        seed: Of the codes.
    """
    old = model.config
    values = {
        **old.to_dict(),
        "hidden_size": old.hidden_size + NEW_WIDTH,
        "num_attention_heads": old.num_attention_heads + NEW_HEADS,
        "num_key_value_heads": old.num_attention_heads + NEW_HEADS,
    }
    wide = LlamaForCausalLM(LlamaConfig(**values))
    wide.eval()
    _Widening(model, wide, _inverse_sizes(model, texts), seed).run()
    return wide


def widened_adapter(adapter: PeftAdapter) -> PeftAdapter:
    """Returns the same adapter for the wider model: zeros for the new dimensions and heads."""
    modules = {
        name: LoraModule(
            m.lora_A if name.endswith("down_proj") else pad(m.lora_A, (0, NEW_WIDTH)),
            m.lora_B
            if name.endswith(("gate_proj", "up_proj"))
            else pad(m.lora_B, (0, 0, 0, NEW_WIDTH)),
            m.scaling,
        )
        for name, m in adapter.modules.items()
    }
    return replace(adapter, modules=modules)


class _Widening:
    """Fills the wide model's weights, from none."""

    def __init__(
        self, old: LlamaForCausalLM, wide: LlamaForCausalLM, inverse_sizes: list[float], seed: int
    ) -> None:
        self.old = old
        self.wide = wide
        self.inverse_sizes = inverse_sizes
        self.generator = torch.Generator().manual_seed(seed)
        self.width = old.config.hidden_size
        self.n_heads = old.config.num_attention_heads
        self.n_layers = old.config.num_hidden_layers
        self.code = _codes(old.config.vocab_size, CODE.stop - CODE.start, self.generator)
        self.code[:SPECIAL_TOKENS] = 0

    @torch.no_grad()
    def run(self) -> None:
        self._take_old()
        self._add_codes()
        shorter = [self._directions()[: _size(part)] for part in BEFORE]  # (n, 32)
        self._add_positions(shorter)
        for head in range(NEW_HEADS):
            self._add_match(head, shorter)
            for layer in range(1, self.n_layers):
                if layer > 1:
                    self._add_open_end(layer, head)
                self._add_sink(layer, head)
                self._add_writing(layer, head)

    def _take_old(self) -> None:
        """The old weights, and norms whose mean is over more dimensions."""
        weights = self.old.state_dict()
        shrink = math.sqrt(self.width / (self.width + NEW_WIDTH))
        for name, value in self.wide.state_dict().items():
            taken = weights[name]
            value.zero_()
            value[tuple(slice(0, n) for n in taken.shape)] = taken
            if name.endswith("norm.weight"):
                value *= shrink
        for layer in range(self.n_layers):
            norm = self.wide.get_parameter(f"model.layers.{layer}.input_layernorm.weight")
            held = NOTED if layer else EMBEDDED
            norm[self.width :] = shrink / held / self.inverse_sizes[layer]
            norm[self.width + BEGIN] *= held / BEGIN_SIZE
        written = shrink * COPY_LOGIT / (COPIED * EMBEDDED * self.inverse_sizes[-1])
        self.wide.model.norm.weight[self._new(WRITTEN)] = written

    def _add_codes(self) -> None:
        embedding: Tensor = self.wide.model.embed_tokens.weight
        sizes = embedding.square().sum(-1, keepdim=True).div(self.width).sqrt()  # (V, 1)
        held = EMBEDDED * self.inverse_sizes[0] * sizes  # the first norm makes all of them 1
        begin = self.old.config.bos_token_id
        embedding[:, self.width + CONSTANT] = held[:, 0]
        embedding[:, self._new(CODE)] = held * self.code
        embedding[begin, self.width + CONSTANT] = 0
        embedding[begin, self.width + BEGIN] = BEGIN_SIZE
        embedding[:, self._new(WRITTEN)] = EMBEDDED * self.code  # read by the output layer

    def _add_positions(self, shorter: list[Tensor]) -> None:
        """Heads of layer 0 that note what stands one, two, three tokens back, and at the token."""
        query, key, value, out = self._weights(0)
        size = _root(POSITION_SIZE / len(FAST_PAIRS))
        for head, distance in enumerate((1, 2, 3, 0)):
            for pair in FAST_PAIRS:
                places = self._places(head, [pair, pair + HEAD_WIDTH // 2])
                angle = distance * 10000 ** (-2 * pair / HEAD_WIDTH)
                query[places, self.width + CONSTANT] = size * torch.tensor([1.0, 0.0])
                key[places, self.width + CONSTANT] = size * torch.tensor(
                    [math.cos(angle), math.sin(angle)]
                )
        noted = [*zip(BEFORE, shorter, strict=True), (CODE, torch.eye(HEAD_WIDTH))]
        for head, (part, code) in enumerate(noted):
            places = self._places(head, range(_size(part)))
            value[places, self._new(CODE)] = code
            out[self._new(part), places] = NOTED * torch.eye(_size(part))
        spare = self._places(0, [HEAD_WIDTH - 1])
        value[spare, self.width + CONSTANT] = 1
        out[self.width + CONSTANT, spare] = NOTED

    def _add_match(self, head: int, shorter: list[Tensor]) -> None:
        """A query of the last three tokens' codes, a key of the three before."""
        places = self._places(head, [*SLOW_PAIRS, *(p + HEAD_WIDTH // 2 for p in SLOW_PAIRS)])
        n = len(places)
        query, key, *_ = self._weights(1)
        for back, (part, share) in enumerate(zip(BEFORE, MATCH_SHARES, strict=True)):
            mixed = self._directions()[:n] * math.sqrt(HEAD_WIDTH / n) @ shorter[back].T
            mixed *= _root(MATCH_SIZE * share / sum(MATCH_SHARES)) * math.sqrt(
                HEAD_WIDTH / _size(part)
            )
            key[places, self._new(part)] += mixed
            if back == 0:
                query[places, self._new(CODE)] += mixed @ shorter[0]
            else:
                unmixed = shorter[back] @ torch.linalg.pinv(shorter[back - 1])
                query[places, self._new(BEFORE[back - 1])] += mixed @ unmixed

    def _add_open_end(self, layer: int, head: int) -> None:
        for weight in self._weights(layer)[:2]:
            start = torch.randn(HEAD_WIDTH, weight.shape[1], generator=self.generator)
            start[SINK_PAIR] = 0
            weight[self._places(head, range(HEAD_WIDTH))] = UPPER_SPREAD * start

    def _add_sink(self, layer: int, head: int) -> None:
        query, key, *_ = self._weights(layer)
        place = self._places(head, [SINK_PAIR])
        size = _root(MATCH_SINK if layer == 1 else UPPER_SINK)
        query[place, self.width + CONSTANT] = size
        key[place, self.width + BEGIN] = size

    def _add_writing(self, layer: int, head: int) -> None:
        *_, value, out = self._weights(layer)
        places = self._places(head, range(HEAD_WIDTH))
        value[places, self._new(CODE)] = torch.eye(HEAD_WIDTH)
        out[self._new(WRITTEN), places] = COPIED / NEW_HEADS * torch.eye(HEAD_WIDTH)

    def _directions(self) -> Tensor:
        """A random rotation of codes."""
        square = torch.randn(HEAD_WIDTH, HEAD_WIDTH, generator=self.generator)
        found: Tensor = torch.linalg.qr(square).Q
        return found

    def _weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key, value and output weights of a layer."""
        q, k, v, o = (
            self.wide.get_parameter(f"model.layers.{layer}.self_attn.{name}_proj.weight")
            for name in "qkvo"
        )
        return q, k, v, o

    def _new(self, part: slice) -> slice:
        return slice(self.width + part.start, self.width + part.stop)

    def _places(self, head: int, dimensions: Sequence[int]) -> list[int]:
        first = (self.n_heads + head) * HEAD_WIDTH
        return [first + i for i in dimensions]


def _codes(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Unit vectors as far from each other as descent takes them; (count, width)."""
    codes = torch.randn(count, width, generator=generator)
    codes = normalize(codes, dim=1).requires_grad_()
    optimizer = torch.optim.Adam([codes], lr=0.02)
    for _ in range(300):
        unit = normalize(codes, dim=1)
        cosines = unit @ unit.T - 2 * torch.eye(count)
        optimizer.zero_grad()
        cosines.clamp(min=0).pow(8).sum().backward()
        optimizer.step()
    return normalize(codes.detach(), dim=1)


@torch.no_grad()
def _inverse_sizes(model: LlamaForCausalLM, texts: Sequence[list[int]]) -> list[float]:
    """The mean inverse root mean square of what each layer and the last norm read."""
    found: list[list[Tensor]] = [[] for _ in range(model.config.num_hidden_layers + 1)]
    norms = [layer.input_layernorm for layer in model.model.layers] + [model.model.norm]

    def keep(norm: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        found[norms.index(norm)].append(inputs[0][0, 1:].square().mean(-1).rsqrt())

    hooks = [norm.register_forward_pre_hook(keep) for norm in norms]
    try:
        for ids in texts:
            model(input_ids=torch.tensor([ids]))
    finally:
        for hook in hooks:
            hook.remove()
    return [torch.cat(sizes).mean().item() for sizes in found]


def _root(logit: float) -> float:
    """The size of a query and of a key whose product gives the logit."""
    return math.sqrt(logit * math.sqrt(HEAD_WIDTH))


def _size(part: slice) -> int:
    return int(part.stop - part.start)
