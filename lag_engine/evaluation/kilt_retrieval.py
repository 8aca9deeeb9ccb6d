"""KILT's retrieval scores: is the evidence among the pages that a prediction names.

Evidence comes in sets: each gold output with provenance is one, and counts as found at the place
of its last page. A page of no set counts as one wrong place. A page is named by its rank keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lag_engine.errors import EvaluationError
from lag_engine.evaluation.kilt_records import Record, align, gold_answers, gold_titles, outputs
from lag_engine.evaluation.text_scores import normalize

PAGES = ("wikipedia_id",)
"""Rank keys of KILT's page-level scores."""

_WHOLE, _WRONG = -1, -2


def evaluate_retrieval(
    gold_records: Sequence[Record],
    guess_records: Sequence[Record],
    *,
    ks: Iterable[int] = (1, 5, 10, 20),
    rank_keys: Sequence[str] = PAGES,
) -> dict[str, float]:
    """Returns what the official eval_retrieval.py does, under its names.

    Args:
        gold_records: with evidence; `input` is read for `entity_in_input`.
        guess_records: with one output that has provenance, best first; outputs without are left
            out. `text` in a provenance is read for the scores "in context".
        ks: depths, each at least 1.
        rank_keys: what names a piece of evidence, as `("wikipedia_id", "section")`.

    Returns:
        Means over the gold records: Rprec, entity_in_input, and for each k precision,
        answer_in_context, answer_and_ent_in_context and entity_in_context, for each k over 1 also
        recall and success_rate.

    Raises:
        EvaluationError: the records cannot be aligned or miss what is read, or a k is below 1.
    """
    depths = sorted(ks)
    if depths and depths[0] < 1:
        raise EvaluationError("Expected each k to be at least 1", f"found {depths[0]}", "raise it")
    pairs = [(gold, _with_evidence(guess)) for gold, guess in align(gold_records, guess_records)]
    totals: dict[str, float] = {}
    for gold, guess in pairs:
        for name, score in _scores(gold, guess, depths, rank_keys).items():
            totals[name] = totals.get(name, 0.0) + score
    return {name: total / len(pairs) for name, total in totals.items()}


def r_precision(gold: Record, guess: Record, rank_keys: Sequence[str] = PAGES) -> float:
    """Returns the best share of one gold output's R pages among the first R that were guessed."""
    guessed = _pages(outputs(guess)[0], rank_keys)
    best = 0.0
    for item in outputs(gold):
        pages = _pages(item, rank_keys)
        if pages:
            best = max(best, sum(page in pages for page in guessed[: len(pages)]) / len(pages))
    return best


def recall_at(gold: Record, guess: Record, k: int, rank_keys: Sequence[str] = PAGES) -> float:
    """Returns the share of the evidence sets that stand whole among the first k places."""
    places, n_sets = _places(gold, guess, rank_keys)
    return sum(places[:k]) / n_sets if n_sets else 0.0


def _scores(
    gold: Record, guess: Record, depths: Sequence[int], rank_keys: Sequence[str]
) -> dict[str, float]:
    places, n_sets = _places(gold, guess, rank_keys)
    answers = {normalize(answer) for answer in gold_answers(gold)}
    titles = {normalize(title) for title in gold_titles(gold)}
    scores: dict[str, float] = {
        "Rprec": r_precision(gold, guess, rank_keys),
        "entity_in_input": _any_in(titles, normalize(_input(gold))),
    }
    for k in depths:
        found = places[:k]
        texts = _contexts(guess, k)
        scores[f"precision@{k}"] = sum(found) / k
        scores[f"answer_in_context@{k}"] = any(_any_in(answers, text) for text in texts)
        scores[f"answer_and_ent_in_context@{k}"] = any(
            _any_in(answers, text) and _any_in(titles, text) for text in texts
        )
        scores[f"entity_in_context@{k}"] = any(_any_in(titles, text) for text in texts)
        if k > 1:
            scores[f"recall@{k}"] = sum(found) / n_sets if n_sets else 0.0
            scores[f"success_rate@{k}"] = any(found)
    return scores


def _places(gold: Record, guess: Record, rank_keys: Sequence[str]) -> tuple[list[bool], int]:
    """Whether each place completes an evidence set, and how many sets there are.

    The pages of a set stand at one place, that of the last found so far. A page may belong to
    several sets and takes a place in each. Without guesses there are no sets either, as in the
    official script.
    """
    guessed = _pages(outputs(guess)[0], rank_keys)
    if not guessed:
        return [], 0
    left = _evidence_sets(gold, rank_keys)
    places: list[int] = []  # the number of a set that is not whole yet, or one of the two below
    for page in guessed:
        members = [number for number, pages in enumerate(left) if page in pages]
        for number in members:
            places = [place for place in places if place != number]
            left[number].remove(page)
            places.append(number if left[number] else _WHOLE)
        if not members:
            places.append(_WRONG)
    return [place == _WHOLE for place in places], len(left)


def _evidence_sets(gold: Record, rank_keys: Sequence[str]) -> list[set[str]]:
    """The distinct sets; a piece of evidence is here even where it lacks a key, as nothing."""
    found: list[set[str]] = []
    for item in outputs(gold):
        if "provenance" in item:
            pages = {
                "+".join(str(place[key]).strip() for key in rank_keys if key in place)
                for place in item["provenance"]
            }
            if pages not in found:
                found.append(pages)
    return found


def _pages(item: Mapping[str, Any], rank_keys: Sequence[str]) -> list[str]:
    """The distinct pages of one output, first mention first; evidence lacking a key is left out."""
    places = (p for p in item.get("provenance", ()) if all(key in p for key in rank_keys))
    return list(dict.fromkeys("+".join(str(p[key]).strip() for key in rank_keys) for p in places))


def _contexts(guess: Record, k: int) -> list[str]:
    """The normalised texts of the first k retrieved passages that have one."""
    places = outputs(guess)[0].get("provenance", ())[:k]
    return [normalize(place["text"]) for place in places if "text" in place]


def _any_in(phrases: Iterable[str], text: str) -> bool:
    return any(phrase in text for phrase in phrases)


def _input(gold: Record) -> str:
    if not isinstance(gold.get("input"), str):
        raise EvaluationError(
            f"Expected the question in 'input' of gold record {gold.get('id')!r}",
            f"found {gold.get('input')!r}",
            "add it; entity_in_input is computed from it",
        )
    return str(gold["input"])


def _with_evidence(guess: Record) -> Record:
    found = [item for item in outputs(guess) if "provenance" in item]
    if len(found) != 1:
        raise EvaluationError(
            f"Expected one output with provenance in prediction {guess.get('id')!r}",
            f"found {len(found)}",
            "name all retrieved pages in one output, best first",
        )
    return {**guess, "output": found}
