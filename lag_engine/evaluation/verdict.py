"""Which system is best on these questions, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lag_engine.evaluation.claims import SIGNIFICANT, p_text, points
from lag_engine.evaluation.score_book import ScoreBook
from lag_engine.evaluation.statistics import Difference, Interval, holm
from lag_engine.evaluation.systems import System


class Rival(NamedTuple):
    """A system beside the best.

    Attributes:
        system: which.
        behind: how far the best is above it.
        p: of that difference, raised for the number of rivals.
    """

    system: System
    behind: Difference
    p: float

    @property
    def is_beaten(self) -> bool:
        """Whether the difference is more than chance."""
        return self.p <= SIGNIFICANT


@dataclass(frozen=True)
class Verdict:
    """What the answers say.

    Attributes:
        best: the system with the highest mean.
        score: its mean.
        rivals: all others, the nearest first.
        n_asked: questions that all of them answered.
        n_questions: questions there are.
    """

    best: System
    score: Interval
    rivals: tuple[Rival, ...]
    n_asked: int
    n_questions: int

    def lines(self) -> list[str]:
        """The verdict in words, a line for each rival."""
        if self.score.score == 0:
            return [
                f"No mode got any of {self.n_asked} questions right: that ranks nothing.",
                _HELP,
            ]
        score = _percent(self.score.score)
        reach = f"[{_percent(self.score.low)}, {_percent(self.score.high)}]"
        asked = f"{self.n_asked} of {self.n_questions} questions"
        said = [f"Best on {asked}: {self.best.name}, with {score} {reach}."]
        if beaten := [rival for rival in self.rivals if rival.is_beaten]:
            said += ["It is better than", *map(_line, beaten)]
        if open_ := [rival for rival in self.rivals if not rival.is_beaten]:
            said += ["These questions do not tell it apart from", *map(_line, open_)]
            said.append(
                "More of them could be asked: leave out --quick."
                if self.n_asked < self.n_questions
                else "Only a larger file of questions could."
            )
        return said


def find_best(book: ScoreBook) -> Verdict:
    """Returns the system with the highest mean on the questions that all answered.

    The best was chosen by the same answers, so its score is a little flattered; the p-values are
    raised for the number of rivals (Holm).
    """
    systems = book.systems
    means = {system: book.mean(system) for system in systems}
    best = max(systems, key=lambda system: means[system].score)
    others = [system for system in systems if system != best]
    behind = [book.difference(best, system) for system in others]
    raised = holm([difference.p for difference in behind])
    rivals = sorted(map(Rival, others, behind, raised), key=lambda rival: rival.behind.score)
    n_asked = len(book.results.common(systems))
    return Verdict(best, means[best], tuple(rivals), n_asked, len(book.results.questions))


_HELP = (
    'If answers are right but worded otherwise, another "metric" counts them, or a task adapter '
    "words them as wanted. Else the model cannot do this task."
)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _line(rival: Rival) -> str:
    gap = rival.behind
    reach = f"[{points(gap.low)}, {points(gap.high)}]"
    return f"  {rival.system.name}: {points(gap.score)} points {reach}, p {p_text(rival.p)}"
