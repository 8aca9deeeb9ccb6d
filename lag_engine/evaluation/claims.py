"""The papers' claims, the controls every claim carries, and what the papers leave open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lag_engine.errors import EvaluationError
from lag_engine.evaluation.score_book import ScoreBook
from lag_engine.evaluation.statistics import holm
from lag_engine.evaluation.systems import System

PAPER_SHARE = 0.92  # of the oracle's score; LAG, table 3
ENOUGH_K, MARGIN = 5, 0.02  # K counts as enough if more candidates gain less than this
STORAGE_FACTOR = 100
SIGNIFICANT = 0.05


class Claim(NamedTuple):
    """One claim and what came of it.

    Attributes:
        text: the claim.
        source: whose it is.
        evidence: the numbers.
        verdict: "held" or "not held", of an open question "better" or "worse"; or "undecided".
    """

    text: str
    source: str
    evidence: str
    verdict: str


class _Contest(NamedTuple):
    text: str
    source: str
    better: System
    worse: System


def judge(book: ScoreBook) -> list[Claim]:
    """Returns what the results say about each claim that they can say something about.

    A claim that one system is better holds if the difference is above 0 at 5 %, raised for the
    number of such claims (Holm), and does not if it is below 0 so. Where a margin is named, the
    interval of 95 % decides.
    """
    contests = [*_papers(book), *_controls(book), *_other_adapters(book)]
    others = (_share_of_oracle(book), _enough_candidates(book), _storage(book))
    decided = _decided(book, contests, ("held", "not held"))
    return [*decided, *(claim for claim in others if claim is not None)]


def answer_open(book: ScoreBook) -> list[Claim]:
    """Returns whether each option alone is better or worse than what the paper takes.

    As in `judge`, at 5 %, raised for the number of questions.
    """
    return _decided(book, _options(book), ("better", "worse"))


def _decided(
    book: ScoreBook, contests: Sequence[_Contest], verdicts: tuple[str, str]
) -> list[Claim]:
    found = [book.difference(contest.better, contest.worse) for contest in contests]
    raised = holm([difference.p for difference in found])
    above, below = verdicts
    return [
        Claim(
            contest.text,
            contest.source,
            f"{points(d.score)} points [{points(d.low)}, {points(d.high)}], p {p_text(p)}",
            "undecided" if p > SIGNIFICANT else above if d.score > 0 else below,
        )
        for contest, d, p in zip(contests, found, raised, strict=True)
    ]


def points(value: float) -> str:
    """A difference in points of a hundred, with its sign."""
    return f"{100 * value:+.1f}"


def p_text(p: float) -> str:
    """A p-value to read."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _papers(book: ScoreBook) -> list[_Contest]:
    pairs = (
        ("LAG answers better than Arrow", "LAG", "lag", "arrow"),
        ("RAG+LAG answers better than RAG", "LAG", "rag+lag", "rag"),
        ("PRAG+LAG answers better than PRAG", "LAG", "prag+lag", "prag"),
        ("RAG+LAG answers better than LAG", "LAG", "rag+lag", "lag"),
        ("LAG answers better than the model alone", "LAG", "lag", "base"),
    )
    return [
        _Contest(text, source, one, other)
        for text, source, better, worse in pairs
        if (one := book.find(better)) and (other := book.find(worse))
    ]


def _controls(book: ScoreBook) -> list[_Contest]:
    """For each system with the right document and a wrong one: does the document matter?"""
    contests = []
    for system in book.systems:
        if system.document == "wrong":
            told = {**system.told(), "document": "right"}
            right = System(**told)
            if right in book.results.systems:
                text = f"{right.title} answers better with the right document than with a wrong one"
                contests.append(_Contest(text, "control", right, system))
    return contests


def _other_adapters(book: ScoreBook) -> list[_Contest]:
    """Are a document's own adapters better than those of a control, such as shuffled pairs?"""
    contests = []
    for system in book.systems:
        usual = System(**{**system.told(), "encoding": ""})
        if system != usual and usual in book.results.systems:
            text = f"{usual.title} answers better as usual than with {system.encoding} adapters"
            contests.append(_Contest(text, "control", usual, system))
    return contests


def _options(book: ScoreBook) -> list[_Contest]:
    """For each system that differs from its mode's usual one in one option: is it better?

    Those that answered every question alike, as with more candidates than there are, are no
    question and are left out.
    """
    contests = []
    for system in book.systems:
        usual = System(system.mode)
        varied = [name for name in system.told() if name != "mode"]
        is_option = len(varied) == 1 and varied[0] in _OPTIONS and usual in book.results.systems
        if is_option and not book.are_alike(system, usual):
            value = getattr(system, varied[0])
            text = f"{usual.title} {_OPTIONS[varied[0]].format(value)}"
            contests.append(_Contest(text, usual.name, system, usual))
    return contests


_OPTIONS = {
    "retrieve_k": "with K {}",
    "score": "with the score {}",
    "retriever": "with documents found by {}",
    "n_documents": "with {} documents",
    "knowledge_routed": "with routed document adapters",
}


def _share_of_oracle(book: ScoreBook) -> Claim | None:
    lag, oracle = book.find("lag"), book.find("oracle", document="right")
    if lag is None or oracle is None:
        return None
    text = f"LAG reaches {PAPER_SHARE:.0%} of the oracle"
    try:
        share = book.share(lag, oracle)
    except EvaluationError as error:
        return Claim(text, "LAG", str(error), "undecided")
    verdict = "held" if share.low >= PAPER_SHARE else "undecided"
    return Claim(
        text,
        "LAG",
        f"{share.score:.1%} [{share.low:.1%}, {share.high:.1%}]",
        "not held" if share.high < PAPER_SHARE else verdict,
    )


def _enough_candidates(book: ScoreBook) -> Claim | None:
    few = book.find("lag", retrieve_k=ENOUGH_K)
    more = [
        system
        for system in book.systems
        if few is not None
        and isinstance(system.retrieve_k, int)
        and system.retrieve_k > ENOUGH_K
        and System(**{**few.told(), "retrieve_k": system.retrieve_k}) == system
    ]
    if few is None or not more:
        return None
    most = max(more, key=lambda system: system.retrieve_k)
    gain = book.difference(most, few)
    verdict = "held" if gain.high < MARGIN else "undecided"
    return Claim(
        f"{ENOUGH_K} candidates are enough: {most.retrieve_k} gain less than "
        f"{100 * MARGIN:.0f} points",
        "LAG",
        f"{points(gain.score)} points [{points(gain.low)}, {points(gain.high)}]",
        "not held" if gain.low >= MARGIN else verdict,
    )


def _storage(book: ScoreBook) -> Claim | None:
    """All latent adapters count with the mixtures, as they must be stored too."""
    kinds = (book.results.about["library"] or {}).get("kinds", {})
    if not {"knowledge", "mixture", "latent"} <= set(kinds):
        return None
    paired, mixed, latent = (kinds[kind] for kind in ("knowledge", "mixture", "latent"))
    one = paired["bytes"] / paired["adapters"]
    marginal = mixed["bytes"] / mixed["adapters"]
    whole = (mixed["bytes"] + latent["bytes"]) / mixed["adapters"]
    return Claim(
        f"Poly-PRAG needs less than 1/{STORAGE_FACTOR} of PRAG's storage",
        "Poly-PRAG",
        f"{one:,.0f} bytes a passage against {whole:,.0f} with the latent adapters' share, "
        f"{marginal:,.0f} without",
        "held" if one > STORAGE_FACTOR * whole else "not held",
    )
