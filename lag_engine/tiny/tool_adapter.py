"""Trains the tool adapter: to call tools, and to be chosen by routing where tools are offered.

Unlike the other task adapters it is trained inside the library it joins. Most steps run it routed:
at each token and module the `projection` score decides between it and the five others, and the
document adapters are routed in their own slot, so that it learns under the choices that mode "lag"
makes. A hinge on the difference between its score and the best other's makes tokens of prompts with
tools choose it and tokens of the other tasks' prompts not; on those its update is penalised too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lag_engine.adapters import AdapterLibrary, LoraModule
from lag_engine.tiny.adapters import document_targets, foreign_task, task_targets
from lag_engine.tiny.corpus import Corpus
from lag_engine.tiny.rivals import Labels, Rival, RoutedDocuments
from lag_engine.tiny.tasks import TASKS
from lag_engine.tiny.tool_rows import ToolRow, ToolRows, padded_rows

RANK = 16
ALPHA = 32.0
STEPS = 1500
PEAK_LR = 2.5e-3
ROWS, FOREIGN_ROWS, KNOWN_ROWS = 16, 12, 3
PLAIN_SHARE = 0.35
"""Share of the steps, from the first on, that run it pinned and alone."""
ROUTED_SHARE, DOCUMENTS_SHARE = 0.8, 0.65
"""Shares of the later steps in which it is routed, and in which document adapters are, too."""
COPIES = 0.05
"""Share of rows that only repeat texts."""
CONVERSATIONS = 0.4
ROUTE_EVERY = 2
ROUTE_TOKENS = 384
"""Tokens whose routing is looked at in such a step; each costs as much as 16 modules' products."""
ROUTE_WEIGHT = 16.0
"""Weight of the hinge's mean over modules."""
SILENCE = (20.0, 100.0)
"""Weight of the silence penalty at the first and at the last step."""
QUIET_TOKENS = 96
"""Foreign tokens, the most frequent, that the adapter is deaf to in layer 0.

Its first inputs are the tokens themselves, so a prompt with tools and one without cannot be told
apart there: what both hold, such as the mark of a turn, has to be left to the others."""
FOREIGN_TEXTS = 300
"""Prompts from which these are counted."""


@dataclass(frozen=True)
class ToolStep:
    """What one step reports: loss on tokens, routing hinge on both sides, and silence penalty."""

    tokens: float
    wanted: float
    foreign: float
    silence: float


@dataclass(frozen=True)
class _Modules:
    """The modules put into the model."""

    rivals: dict[str, Rival]
    documents: list[RoutedDocuments]

    def set(self, *, is_routed: bool, has_documents: bool) -> None:
        for rival in self.rivals.values():
            rival.is_routed = is_routed
        for module in self.documents:
            module.is_on = has_documents

    def label(self, labels: Labels | None) -> None:
        for rival in self.rivals.values():
            rival.labels = labels

    @torch.no_grad()
    def silence(self, quiet: Tensor) -> None:
        """Takes the quiet directions (K, D_in) out of what layer 0 listens to."""
        for name in ("q_proj", "k_proj", "v_proj"):
            A = self.rivals[f"model.layers.0.self_attn.{name}"].lora_A
            A.sub_((A @ quiet.T) @ quiet)

    def mean(self, name: str) -> Tensor:
        return torch.stack([getattr(rival, name) for rival in self.rivals.values()]).mean()


def train_tool_adapter(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    library: AdapterLibrary,
    *,
    seed: int,
    steps: int = STEPS,
    on_step: Callable[[int, ToolStep], None] | None = None,
) -> dict[str, LoraModule]:
    """Trains the adapter that calls tools among the library's adapters.

    Args:
        model: The base; float32; left as it was.
        tokenizer: Its tokenizer.
        library: Holds the other task adapters and the document adapters.
        seed: Of the rows and the start.
        steps: Optimiser steps.
        on_step: Hears each step's losses; routing and silence are zero where they were not looked
            at.

    Returns:
        Its modules by dotted path, float32.
    """
    rows = ToolRows(tokenizer, side="train", seed=seed)
    others = Corpus(tokenizer, seed=seed, stream="foreign to tools")
    foreign = [_foreign(others, rows.rng).ids for _ in range(FOREIGN_TEXTS)]
    start = _start(model, seed)
    quiet = _quiet_directions(model, foreign)
    with _installed(model, library, start) as modules:
        modules.silence(quiet)
        parameters = [p for r in modules.rivals.values() for p in (r.lora_A, r.lora_B)]
        optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, weight_decay=0.0)
        trainer = _Trainer(model, modules, rows, others, steps)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LR * _schedule(step, steps)
            report = trainer.backward(step)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            modules.silence(quiet)
            optimizer.zero_grad(set_to_none=True)
            if on_step is not None:
                on_step(step, report)
        return {
            name: LoraModule(r.lora_A.detach().clone(), r.lora_B.detach().clone(), r.scaling)
            for name, r in modules.rivals.items()
        }


class _Trainer:
    """The losses of each step, with their gradients."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        modules: _Modules,
        rows: ToolRows,
        others: Corpus,
        steps: int,
    ) -> None:
        self.model = model
        self.modules = modules
        self.rows = rows
        self.steps = steps
        self.rng = rows.rng
        self.others = others
        self._done = 0.0
        self._batches = self._by_length()

    def backward(self, step: int) -> ToolStep:
        """Adds one step's gradients."""
        self._done = step / self.steps
        is_plain = self._done < PLAIN_SHARE
        self.modules.set(
            is_routed=not is_plain and self.rng.random() < ROUTED_SHARE,
            has_documents=not is_plain and self.rng.random() < DOCUMENTS_SHARE,
        )
        batch = _batch(next(self._batches), whole=True)
        is_taught = step % ROUTE_EVERY == 0
        loss = tokens = self._tokens_loss(batch, is_wanted=True if is_taught else None)
        if not is_taught:
            loss.backward()
            return ToolStep(tokens.item(), 0.0, 0.0, 0.0)
        wanted = self.modules.mean("hinge")
        self._tokens_loss(_batch(self._foreign_rows()), is_wanted=False)
        foreign, silence = self.modules.mean("hinge"), self.modules.mean("penalty")
        weight = SILENCE[0] + (SILENCE[1] - SILENCE[0]) * self._done
        loss = tokens + ROUTE_WEIGHT * (wanted + foreign) + weight * silence
        loss.backward()
        return ToolStep(tokens.item(), wanted.item(), foreign.item(), silence.item())

    def _tokens_loss(self, batch: _Batch, *, is_wanted: bool | None) -> Tensor:
        """Weighted mean cross entropy; the modules keep what they were taught of routing."""
        ids, weights = batch.ids[:, :-1], batch.weights[:, 1:]
        places = batch.is_taught[:, :-1].flatten().nonzero()[:, 0]
        places = places[torch.randperm(len(places))[:ROUTE_TOKENS]]
        self.modules.label(None if is_wanted is None else Labels(places, is_wanted))
        kept = weights > 0  # (B, T - 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.model.model(input_ids=ids).last_hidden_state
            logits = self.model.lm_head(hidden[kept])  # (kept, V)
        losses = cross_entropy(logits.float(), batch.ids[:, 1:][kept], reduction="none")
        return (losses * weights[kept]).sum() / weights[kept].sum().clamp(min=1e-6)

    def _by_length(self) -> Iterator[list[ToolRow]]:
        """Batches of rows of about one length, so that little is padding."""
        while True:
            rows = [
                self.rows.row(copies=COPIES, conversations=CONVERSATIONS) for _ in range(6 * ROWS)
            ]
            rows.sort(key=lambda row: len(row.ids))
            batches = [rows[i : i + ROWS] for i in range(0, len(rows), ROWS)]
            self.rng.shuffle(batches)
            yield from batches

    def _foreign_rows(self) -> list[ToolRow]:
        """Prompts of other tasks, and questions that none of the offered tools is for."""
        others = [_foreign(self.others, self.rng) for _ in range(FOREIGN_ROWS - KNOWN_ROWS)]
        return others + [self.rows.known() for _ in range(KNOWN_ROWS)]


def _foreign(corpus: Corpus, rng: random.Random) -> ToolRow:
    """A prompt of one of the other tasks and its answer, without weight."""
    example = foreign_task(corpus, rng.choice(TASKS))
    return ToolRow(example.ids, [0.0] * len(example.ids), 0)


class _Batch(NamedTuple):
    """Token ids, loss weights, and the tokens whose routing may be taught; all (B, T)."""

    ids: Tensor
    weights: Tensor
    is_taught: Tensor


def _batch(rows: list[ToolRow], *, whole: bool = False) -> _Batch:
    """Pads rows on the right; routing is taught from each row's start on, or in all of it."""
    ids, weights = padded_rows(rows)
    is_taught = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        is_taught[i, 0 if whole else row.start : len(row.ids)] = True
    return _Batch(ids, weights, is_taught)


def _start(model: LlamaForCausalLM, seed: int) -> dict[str, LoraModule]:
    """PEFT's start: a random ``lora_A``, and zero."""
    generator = torch.Generator().manual_seed(seed)
    modules = {}
    for name in task_targets(model.config.num_hidden_layers):
        d_out, d_in = model.get_parameter(f"{name}.weight").shape
        bound = 1 / math.sqrt(d_in)
        lora_A = torch.empty(RANK, d_in).uniform_(-bound, bound, generator=generator)
        modules[name] = LoraModule(lora_A, torch.zeros(d_out, RANK), ALPHA / RANK)
    return modules


def _quiet_directions(model: LlamaForCausalLM, foreign: list[list[int]]) -> Tensor:
    """An orthonormal basis of the most frequent foreign tokens' inputs to layer 0; (K, D)."""
    tokens = torch.tensor([token for ids in foreign for token in ids])
    frequent = torch.bincount(tokens).argsort(descending=True)[:QUIET_TOKENS]
    embedded = model.model.layers[0].input_layernorm(model.model.embed_tokens.weight[frequent])
    basis: Tensor = torch.linalg.qr(embedded.detach().T).Q
    return basis.T


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up over 30 steps, then linear descent to zero over the last nine tenths."""
    return min((step + 1) / 30, (steps - step) / (0.9 * steps), 1.0)


@contextmanager
def _installed(
    model: LlamaForCausalLM, library: AdapterLibrary, start: dict[str, LoraModule]
) -> Iterator[_Modules]:
    """Puts the routed modules in place of the model's own and takes them out again."""
    names = [*task_targets(model.config.num_hidden_layers), *document_targets()]
    own = {name: model.get_submodule(name) for name in names}
    trained = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        modules = _Modules({}, [])
        for name, base in own.items():
            assert isinstance(base, torch.nn.Linear)
            if name in start:
                routed = Rival(base, library.stack(name, "task"), start[name])
                modules.rivals[name] = routed
                model.set_submodule(name, routed)
            else:
                documents = RoutedDocuments(base, library.stack(name, "knowledge"))
                modules.documents.append(documents)
                model.set_submodule(name, documents)
        yield modules
    finally:
        for name, base in own.items():
            model.set_submodule(name, base)
        for parameter in trained:
            parameter.requires_grad_(True)
