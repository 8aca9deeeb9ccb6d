"""The options of `lag evaluate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Control(StrEnum):
    """Whose document a question gets instead of the retrieved one."""

    right = "right"
    wrong = "wrong"
    none = "none"


class ScoreName(StrEnum):
    """What decides among candidates."""

    projection = "projection"
    norm = "norm"
    relative = "relative"


class RetrieverName(StrEnum):
    """Who finds documents."""

    bm25 = "bm25"
    dense = "dense"
    hybrid = "hybrid"


Files = Annotated[
    list[Path] | None,
    typer.Argument(help="KILT files or files of your own.  [default: the tiny world]"),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Which mode is best on my data, in about a minute.")
]
Guess = Annotated[
    Path | None, typer.Option(help="Only score this file of predictions against a KILT file.")
]
Report = Annotated[
    list[Path] | None, typer.Option("--report", help="Only report this results file; repeatable.")
]
Documents = Annotated[
    Path | None, typer.Option(help='Lines {"id" or "wikipedia_id", "text", "title", "adapter"}.')
]
DataSetName = Annotated[
    str | None, typer.Option("--data-set", help="Of KILT.  [default: by the file's name]")
]
Model = Annotated[str, typer.Option(help="'lag-tiny', a model folder or a hub id.")]
Library = Annotated[Path | None, typer.Option(help="The adapter library; lag-tiny brings its own.")]
Translator = Annotated[
    Path | None, typer.Option(help="DyPRAG's folder.  [default: the library's, if it has one]")
]
Embedder = Annotated[
    str | None,
    typer.Option(help="A sentence-transformers model for dense.  [default: lag-tiny's]"),
]
Modes = Annotated[
    list[str] | None,
    typer.Option("--mode", help="Repeatable.  [default: all that can run]"),
]
Varied = Annotated[
    list[str] | None,
    typer.Option("--vary", help="Modes whose options are varied; repeatable.  [default: all]"),
]
Ks = Annotated[
    list[str] | None, typer.Option("--retrieve-k", help="A number or 'adaptive'; repeatable.")
]
Scores = Annotated[list[ScoreName] | None, typer.Option("--score", help="Repeatable.")]
Retrievers = Annotated[list[RetrieverName] | None, typer.Option("--retriever", help="Repeatable.")]
Counts = Annotated[
    list[int] | None,
    typer.Option("--n-documents", min=1, help="Documents found for a question; repeatable."),
]
Encodings = Annotated[
    list[str] | None,
    typer.Option(
        "--encoding",
        metavar="NAME[=LIBRARY]",
        help="Other adapters of the documents in PRAG's place: their own under this name, or a "
        "second library's, such as a control's; repeatable.",
    ),
]
KnowledgeRouted = Annotated[
    bool, typer.Option("--knowledge-routed", help="Also rag+lag with routed document adapters.")
]
Controls = Annotated[list[Control] | None, typer.Option("--control", help="Repeatable.")]
Sizes = Annotated[
    list[int] | None,
    typer.Option("--library-size", help="Knowledge adapters to choose from; repeatable."),
]
Everything = Annotated[
    bool, typer.Option("--every-combination", help="Of options; else one is varied at a time.")
]
PerSet = Annotated[
    int | None, typer.Option("--per-data-set", min=1, help="At most so many questions of each.")
]
MaxNewTokens = Annotated[int, typer.Option(min=1)]
Stop = Annotated[list[str] | None, typer.Option(help="A string that ends answers; repeatable.")]
DocumentTokens = Annotated[
    int | None, typer.Option(min=1, help="Documents in prompts are cut after so many tokens.")
]
Seed = Annotated[int, typer.Option(help="Of questions, wrong documents and smaller libraries.")]
Batch = Annotated[int, typer.Option(min=1, help="Questions decoded together.")]
NoTraces = Annotated[bool, typer.Option("--no-traces", help="Skip routing accuracy; faster.")]
Output = Annotated[
    Path, typer.Option(help="A folder for results and report; goes on where it was cut off.")
]
Device = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda:0', ...")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
