"""The options of `lag encode`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Folder = Annotated[Path, typer.Argument(help="With txt, md, html and pdf files.")]
Library = Annotated[Path, typer.Option(help="Its folder; with --model, it is made if need be.")]
Model = Annotated[
    str | None,
    typer.Option(help="'lag-tiny', a folder or a hub id.  [default: the library's base model]"),
]
Method = Annotated[
    Literal["prag", "polyprag", "dyprag"],
    typer.Option(
        help="prag: a small LoRA for each passage. polyprag: a mixture of latent adapters that all "
        "passages share. dyprag: prag, and a translator that makes adapters of other passages."
    ),
]
Status = Annotated[bool, typer.Option("--status", help="Only show how every document stands.")]
Pairs = Annotated[
    Path | None,
    typer.Option(help='A file of lines {"id": FILE, "question": ..., "answer": ...}.'),
]
AnyAnswer = Annotated[
    bool,
    typer.Option(
        "--any-answer", help="Answers for one passage (FILE#0, ...) need not stand in it."
    ),
]
Write = Annotated[
    Literal["none", "self"],
    typer.Option("--augment", help="self: the model writes missing pairs and rewrites."),
]
AllowPlain = Annotated[
    bool, typer.Option("--allow-plain", help="Go on where it writes no usable pair.")
]
PassageTokens = Annotated[int, typer.Option(min=8, help="The most tokens of a passage.")]
Prefix = Annotated[str, typer.Option(help="Before each document's id, which is its path.")]
Collection = Annotated[
    str | None, typer.Option(help="A name, for a folder that may move.  [default: its path]")
]
Questions = Annotated[
    Literal["after text", "alone"],
    typer.Option(
        help="after text: half of them, as in the papers. alone: all of them, which small models "
        "need to keep an answer."
    ),
]
Rank = Annotated[int, typer.Option(min=1, help="Of each adapter.")]
Alpha = Annotated[float, typer.Option(help="An update is multiplied by alpha / rank.")]
Targets = Annotated[
    str, typer.Option(metavar="NAME,...", help="Ends of the paths of the modules to adapt.")
]
Layers = Annotated[
    str | None, typer.Option(metavar="NUMBER,...", help="Adapt only these.  [default: all]")
]
LearningRate = Annotated[float, typer.Option(help="Of AdamW.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over a passage's sequences.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Sequences in one step.")]
Clip = Annotated[float | None, typer.Option(help="The largest gradient norm; not of polyprag.")]
StopLoss = Annotated[
    float | None,
    typer.Option(help="A passage is done at this mean loss of an epoch; not of polyprag."),
]
SharedLoraA = Annotated[
    bool,
    typer.Option(
        "--shared-lora-a", help="One lora_A for all passages, not trained; not of polyprag."
    ),
]
Latents = Annotated[
    int | None, typer.Option(min=1, help="Latent adapters; of polyprag.  [default: 20]")
]
TopK = Annotated[
    int | None, typer.Option(min=1, help="Of which a passage mixes so many.  [default: 4]")
]
RoutingEpochs = Annotated[
    int | None,
    typer.Option(min=1, help="For a passage that comes later; of polyprag.  [default: 16]"),
]
TranslatorEpochs = Annotated[
    int | None, typer.Option(min=1, help="Passes over the passages; of dyprag.  [default: 1]")
]
TranslatorRate = Annotated[
    float | None, typer.Option(help="The translator's learning rate; of dyprag.  [default: 0.0005]")
]
Seed = Annotated[int, typer.Option(help="Of every adapter's start.")]
MemoryGib = Annotated[float, typer.Option(help="For training, besides the model.")]
LossLog = Annotated[Path | None, typer.Option(help="A file to append losses to, as JSON lines.")]
Device = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda:0', ...")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]
