"""KILT's scores, as the official scripts compute them (facebookresearch/KILT, eval_downstream.py).

Points of the KILT scores count only where page-level R-precision is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from lag_engine.errors import EvaluationError
from lag_engine.evaluation.kilt_records import Record, align, gold_answers, outputs
from lag_engine.evaluation.kilt_retrieval import r_precision, recall_at
from lag_engine.evaluation.text_scores import exact_match, f1, rouge_l

Metric = Literal["accuracy", "em", "f1", "rougel"]
METRICS: tuple[Metric, ...] = ("accuracy", "em", "f1", "rougel")
RECALL_DEPTH = 5


class DataSet(NamedTuple):
    """One of KILT's data sets.

    Attributes:
        name: as papers print it.
        task: the family it belongs to.
        metric: the one it is reported in.
    """

    name: str
    task: str
    metric: Metric


DATA_SETS: dict[str, DataSet] = {
    "fever": DataSet("FEVER", "fact_checking", "accuracy"),
    "aidayago2": DataSet("AY2", "entity_linking", "accuracy"),
    "wned": DataSet("WnWi", "entity_linking", "accuracy"),
    "cweb": DataSet("WnCw", "entity_linking", "accuracy"),
    "trex": DataSet("T-REx", "slot_filling", "accuracy"),
    "structured_zeroshot": DataSet("zsRE", "slot_filling", "accuracy"),
    "nq": DataSet("NQ", "open_qa", "em"),
    "triviaqa": DataSet("TQA", "open_qa", "em"),
    "hotpotqa": DataSet("HoPo", "open_qa", "em"),
    "eli5": DataSet("ELI5", "open_qa", "rougel"),
    "wow": DataSet("WoW", "dialogue", "f1"),
}
"""By the first part of KILT's file names, as in ``nq-dev-kilt.jsonl``."""


class Scores(NamedTuple):
    """One prediction's scores.

    Attributes:
        accuracy: 1 if it is one of the gold answers, character by character.
        em: 1 if it is once both are normalised.
        f1: of the normalised tokens, with the best gold answer.
        rougel: with the best gold answer.
        rprec: page-level R-precision.
        recall: of the evidence sets, within the first five pages.
    """

    accuracy: float
    em: float
    f1: float
    rougel: float
    rprec: float
    recall: float


def evaluate(
    gold_records: Sequence[Record], guess_records: Sequence[Record]
) -> dict[str, dict[str, float]]:
    """Returns the official script's nested result: `kilt`, `downstream` and `retrieval`.

    Args:
        gold_records: with answers.
        guess_records: with exactly one output that has an answer; a provenance is optional. An
            empty answer scores 0.

    Raises:
        EvaluationError: the records cannot be aligned by id, a prediction has not exactly one
            answer, or a gold record has none for an answer that was given.
    """
    scores = [score(gold, guess) for gold, guess in align(gold_records, guess_records)]
    proven = [item._replace(**({} if item.rprec == 1 else _NOTHING)) for item in scores]
    return {
        "kilt": {f"KILT-{name}": _mean(proven, name) for name in METRICS},
        "downstream": {name: _mean(scores, name) for name in METRICS},
        "retrieval": {
            "Rprec": _mean(scores, "rprec"),
            f"recall@{RECALL_DEPTH}": _mean(scores, "recall"),
        },
    }


def score(gold: Record, guess: Record) -> Scores:
    """Returns the scores of one prediction.

    Raises:
        EvaluationError: as for `evaluate`.
    """
    answer, answers = _answer(guess), gold_answers(gold)
    if answer and not answers:
        raise EvaluationError(
            f"Expected an answer in gold record {gold.get('id')!r}",
            "found none",
            "leave the record out, or use a file with answers",
        )
    return Scores(
        **answer_scores(answer, sorted(answers)),
        rprec=r_precision(gold, guess),
        recall=recall_at(gold, guess, RECALL_DEPTH),
    )


def answer_scores(answer: str, golds: Sequence[str]) -> dict[Metric, float]:
    """Returns a trimmed answer's best score over the gold answers, in each metric."""
    return {name: _best(measure, answer, golds) for name, measure in _MEASURES.items()}


_MEASURES: dict[Metric, Callable[[str, str], float]] = {
    "accuracy": str.__eq__,
    "em": exact_match,
    "f1": f1,
    "rougel": rouge_l,
}
_NOTHING: dict[str, Any] = dict.fromkeys(METRICS, 0.0)


def _best(measure: Callable[[str, str], float], answer: str, golds: Sequence[str]) -> float:
    return max((float(measure(answer, gold)) for gold in golds), default=0.0) if answer else 0.0


def _answer(guess: Record) -> str:
    found = outputs(guess)
    if len(found) != 1 or "answer" not in found[0]:
        raise EvaluationError(
            f"Expected exactly one output, with an answer, in prediction {guess.get('id')!r}",
            f"found {len(found)} outputs, {sum('answer' in item for item in found)} with answers",
            "keep the best; write an empty answer where there is none",
        )
    return str(found[0]["answer"]).strip()


def _mean(scores: Sequence[Scores], name: str) -> float:
    return sum(getattr(item, name) for item in scores) / len(scores) if scores else 0.0
