"""Trains the small sentence-transformers model that retrieves the world's documents.

One BERT layer of width 256 over the tiny tokenizer, mean pooling, unit vectors; trained on
questions and documents of training entities. Negatives are the other documents of the batch, half
of which are about an entity whose name shares a word with a questioned one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from lag_engine.tiny.corpus import Corpus
from lag_engine.tiny.tasks import TASKS, ask

STEPS = 600
BATCH_TRIPLES = 80
PEAK_LR = 2e-3
TEMPERATURE = 0.03
WIDTH = 256
MAX_TOKENS = 128


def train_embedder(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    steps: int = STEPS,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Trains the embedder and saves it to ``folder`` as a sentence-transformers model."""
    torch.manual_seed(seed)
    embedder = _new_embedder(tokenizer)
    corpus = Corpus(tokenizer, seed=seed, stream="embedder")
    optimizer = torch.optim.AdamW(embedder.parameters(), lr=PEAK_LR)
    embedder.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * min(1.0, (step + 1) / 40, (steps - step) / (0.5 * steps))
        questions, right, near = zip(*(_triple(corpus) for _ in range(BATCH_TRIPLES)), strict=True)
        scores = _vectors(embedder, [*questions]) @ _vectors(embedder, [*right, *near]).T
        loss = cross_entropy(scores / TEMPERATURE, torch.arange(BATCH_TRIPLES))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if on_step is not None:
            on_step(step, loss.item())
    embedder.eval()
    embedder.save(str(folder), create_model_card=False)


def _new_embedder(tokenizer: PreTrainedTokenizerFast) -> SentenceTransformer:
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with TemporaryDirectory() as start:
        BertModel(config).save_pretrained(start)
        tokenizer.save_pretrained(start)
        transformer = Transformer(start, max_seq_length=MAX_TOKENS)
    return SentenceTransformer(
        modules=[transformer, Pooling(WIDTH, "mean"), Normalize()], device="cpu"
    )


def _vectors(embedder: SentenceTransformer, texts: list[str]) -> torch.Tensor:
    """Unit vectors (B, D) with gradients."""
    vectors: torch.Tensor = embedder(embedder.preprocess(texts))["sentence_embedding"]
    return vectors


def _triple(corpus: Corpus) -> tuple[str, str, str]:
    """A question of a random task, the document that answers it, and a neighbour's."""
    entity = next(corpus.fresh)
    relation = corpus.rng.choice(entity.relations())
    question = ask(corpus.rng.choice(TASKS), entity, relation, "train", corpus.rng)
    near = corpus.neighbour(entity)
    return question.prompt, entity.document(corpus.rng), near.document(corpus.rng)
