"""`lag ask`: one question to any model with any library."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from lag_engine.cli.console import out
from lag_engine.cli.engine_options import FactorCache, n_cache_bytes
from lag_engine.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lag_engine.model.engine import LAGEngine
    from lag_engine.model.generation import Generation
    from lag_engine.routing.plan import Plan
    from lag_engine.routing.trace import RoutingTrace

MADE = ("dyprag", "dyprag+lag")
"""Modes in which a text is no part of the prompt: an adapter is made of it."""


def ask(
    model: Annotated[str, typer.Argument(help="'lag-tiny', a model folder or a hub id.")],
    question: Annotated[str, typer.Argument(help="The user's message.")],
    library: Annotated[
        Path | None, typer.Option(help="The adapter library; lag-tiny brings its own.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="base, arrow, spectr, lag, rag, prag, dyprag, rag+lag, prag+lag, oracle, ...: see "
            "the README. Default: lag, or rag+lag with --context."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME=WEIGHT to pin; may be repeated.")
    ] = None,
    score: Annotated[
        Literal["projection", "norm", "relative"] | None,
        typer.Option(help="What SpectR's stage compares by.  Default: projection."),
    ] = None,
    approximate: Annotated[
        bool, typer.Option(help="Let retrieval miss an adapter now and then, for speed.")
    ] = False,
    context: Annotated[
        list[Path] | None,
        typer.Option(
            help="A text file for the prompt, or to make an adapter of in mode dyprag; may be "
            "repeated."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Of the sampling.")] = None,
    factor_cache_mb: FactorCache = None,
    trace: Annotated[bool, typer.Option(help="Show which adapters were chosen.")] = False,
) -> None:
    """Ask a model one question."""
    from lag_engine.model.engine import LAGEngine

    files = context or []
    mode = mode or ("rag+lag" if files else "lag")
    cache = n_cache_bytes(factor_cache_mb)
    with (
        LAGEngine.from_pretrained(model, library=library, factor_cache_bytes=cache) as engine,
        _made(engine, mode, files, adapter or []) as pinned,
    ):
        plan = _plan(engine, mode, pinned, score, approximate=approximate)
        prompt = _prompt(engine, _with_context(question, files, plan))
        generation = _print_answer(
            engine,
            prompt,
            plan=plan,
            trace=trace,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
    if generation.trace is not None:
        _print_routing(generation.trace)


@contextmanager
def _made(
    engine: LAGEngine, mode: str, files: list[Path], adapters: list[str]
) -> Iterator[dict[str, float]]:
    """Gives the adapters to pin, with weights; in DyPRAG's modes they are made of the files."""
    if mode not in MADE:
        yield dict(_name_and_weight(text) for text in adapters)
        return
    from lag_engine.documents import DyPRAG, Passage

    if adapters or not files:
        raise PlanError(
            f"Expected --context with mode {mode!r}, which makes an adapter of each text",
            "found --adapter" if adapters else "found none",
            "name the text with --context FILE; adapters of the library are pinned by 'prag'",
        )
    passages = [Passage(str(file), _read(file)) for file in files]
    with DyPRAG.from_engine(engine).generated(passages) as names:
        yield dict.fromkeys(names, 1.0)


def _plan(
    engine: LAGEngine, mode: str, pinned: dict[str, float], score: str | None, *, approximate: bool
) -> Plan:
    options: dict[str, Any] = {} if score is None else {"score": score}
    return engine.plan(mode, adapters=pinned or None, approximate=approximate, **options)


def _name_and_weight(text: str) -> tuple[str, float]:
    name, separator, weight = text.rpartition("=")
    if not separator:
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError as error:
        raise PlanError(
            "Expected --adapter NAME or NAME=WEIGHT with a number",
            f"found {text!r}",
            "write the weight like 0.5",
        ) from error


def _with_context(question: str, files: list[Path], plan: Plan) -> str:
    if not files or plan.mode in MADE:
        return question
    if not plan.reads_documents:
        raise PlanError(
            "Expected a mode that reads documents where --context is given",
            f"found mode {plan.mode!r}",
            "use 'rag', 'rag+lag', 'rag+prag+lag' or 'dyprag', or leave --context out",
        )
    text = "\n\n".join(_read(file) for file in files)
    return f"Text: {text}\n\n{question}"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(
            "Expected --context to name a UTF-8 text file", f"found: {error}", "check the path"
        ) from error


def _prompt(engine: LAGEngine, text: str) -> Any:
    """The user's message, or the bare text for a model that has no chat template."""
    return [{"role": "user", "content": text}] if engine.tokenizer.chat_template else text


def _print_answer(engine: LAGEngine, prompt: Any, **options: Any) -> Generation:
    for piece in engine.stream(prompt, **options):
        out.print(piece.text, end="", markup=False, highlight=False, soft_wrap=True)
        if piece.generation is not None:
            out.print()
            return piece.generation
    raise AssertionError("a stream ends with its generation")


def _print_routing(trace: RoutingTrace) -> None:
    """Prints each slot's most used adapters, and each token's."""
    for slot, account in trace.summary(most=5)["slots"].items():
        shares = (f"{a['adapter']} {a['share']:.0%}" for a in account["adapters"])
        line = ", ".join(shares) or "no adapter"
        out.print(f"{slot}: {line}", markup=False, highlight=False)
    table = Table("token", *trace.slots)
    by_slot = {slot: trace.share(by="token", slot=slot) for slot in trace.slots}
    for position, text in enumerate(trace.tokens):
        most = [_most_used(by_slot[slot].get(position, {})) for slot in trace.slots]
        table.add_row(repr(text), *most)
    out.print(table)


def _most_used(shares: dict[str | None, float]) -> str:
    if not shares:
        return ""
    name, share = max(shares.items(), key=lambda item: item[1])
    return f"{name or '(base)'} {share:.0%}"
