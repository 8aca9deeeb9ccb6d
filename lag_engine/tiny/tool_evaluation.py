"""Whether the right tool is called, with the right arguments, and only when one is asked for.

Run it with ``python -m lag_engine.tiny.tool_evaluation``.

Tools and requests are generated, on a side of the names that training never saw. ``tool_choice`` is
"auto", so the model decides whether to call; once it begins a call, the tools' schemas guide it.
Exact strings count, in values as in texts.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from lag_engine.evaluation.statistics import mean_interval
from lag_engine.model.engine import LAGEngine
from lag_engine.model.generation import Generation
from lag_engine.routing import Pinned, Plan
from lag_engine.tiny.corpus import Corpus
from lag_engine.tiny.shipped import SEED, TOOL_ADAPTER
from lag_engine.tiny.tool_cases import Case, CaseKind, CaseMaker
from lag_engine.tiny.tools import Side

COUNTS: dict[CaseKind, int] = {
    "call": 120,
    "extraction": 24,
    "search": 24,
    "result": 30,
    "read": 24,
    "chat": 12,
    "recall": 24,
    "unfit": 24,
}
"""How many cases of each kind are asked."""
MAX_NEW_TOKENS = 160
BATCH = 24


SYSTEMS: dict[str, Plan] = {
    "base": Plan.from_mode("base"),
    "arrow": Plan.from_mode("arrow"),
    "spectr": Plan.from_mode("spectr"),
    "lag": Plan.from_mode("lag"),
    "lag norm": Plan.from_mode("lag", score="norm"),
    "rag+lag": Plan.from_mode("rag+lag"),
    "oracle": Plan("custom", task=Pinned([TOOL_ADAPTER])),
}
"""``oracle`` pins the tool adapter; like ``rag+lag`` it has nothing in the knowledge slot."""


def tool_cases(tokenizer: Any, side: Side, counts: dict[CaseKind, int] | None = None) -> list[Case]:
    """The cases of one side, the same at every call, each kind in turn."""
    corpus = Corpus(tokenizer, seed=SEED, stream=f"tool evaluation/{side}")
    maker = CaseMaker(side, random.Random(f"{SEED}/{side}/tools"), corpus.known, corpus.fresh)
    counts = COUNTS if counts is None else counts
    # A maker may fall back to another kind, so that each is drawn until it is there.
    return [_case(maker, kind) for kind, count in counts.items() for _ in range(count)]


def evaluate_tools(
    engine: LAGEngine,
    cases: Sequence[Case],
    systems: Mapping[str, Plan] = SYSTEMS,
    *,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Runs every system over every case; returns shares with intervals, as JSON takes them."""
    results = {}
    for name, plan in systems.items():
        results[name] = measure_tools(cases, answer_cases(engine, cases, plan))
        shown = {
            k: f"{100 * v['score']:.1f} ({100 * v['low']:.1f}-{100 * v['high']:.1f})"
            for k, v in results[name].items()
        }
        tell(f"{name}, %: " + ", ".join(f"{k} {v}" for k, v in shown.items()))
    return results


def answer_cases(engine: LAGEngine, cases: Sequence[Case], plan: Plan) -> list[Generation]:
    """The engine's answers, tools offered where the case has some."""
    answers: list[Generation] = []
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        answers += engine.generate_batch(
            [list(case.messages) for case in batch],
            plans=plan,
            tools=[case.schemas or None for case in batch],
            max_new_tokens=MAX_NEW_TOKENS,
        )
    return answers


def measure_tools(cases: Sequence[Case], answers: Sequence[Generation]) -> dict[str, Any]:
    """Shares with intervals of 95 %.

    ``decision``: called exactly if a call is due, of all cases with tools; ``tool`` and ``call``:
    the right tools, and in addition exactly the right arguments, of the cases that are due a call;
    ``text``: exactly the right text, of the others; and ``call`` or ``text`` of each kind.
    """
    hits: dict[str, list[float]] = defaultdict(list)
    for case, answer in zip(cases, answers, strict=True):
        called = [(call.name, call.arguments) for call in answer.tool_calls]
        due = [(call.name, call.arguments) for call in case.calls]
        if case.tools:
            hits["decision"].append(float(bool(called) == bool(due)))
        if due:
            hits["tool"].append(float([name for name, _ in called] == [name for name, _ in due]))
            right = float(called == due)
        else:
            right = float(not called and answer.text.strip() == case.text)
        hits["call" if due else "text"].append(right)
        hits[f"{case.kind}: {'call' if due else 'text'}"].append(right)
    return {label: mean_interval(values)._asdict() for label, values in hits.items()}


def _case(maker: CaseMaker, kind: CaseKind) -> Case:
    while True:
        case = maker.case(kind)
        if case.kind == kind:
            return case


def main() -> None:
    """Asks the shipped model the evaluation side's cases under the named systems, or all."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=", ".join(SYSTEMS))
    named = parser.parse_args().systems or SYSTEMS
    with LAGEngine.from_pretrained("lag-tiny") as engine:
        cases = tool_cases(engine.tokenizer, "eval")
        evaluate_tools(engine, cases, {n: SYSTEMS[n] for n in named}, tell=Console().print)


if __name__ == "__main__":
    main()
