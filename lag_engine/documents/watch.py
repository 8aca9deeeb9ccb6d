"""Follows one group's training."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from lag_engine.documents.grouping import Work
from lag_engine.documents.progress import LossLog, ProgressBar
from lag_engine.documents.training import StepLosses
from lag_engine.errors import DocumentError


class Wait:
    """The wait for a training that runs on another thread, such as an engine's.

    Ctrl-C reaches the thread that waits; the one that trains would go on.
    """

    def __init__(self) -> None:
        self._is_interrupted = threading.Event()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, an error ends the training at its next `check`."""
        try:
            yield
        except BaseException:
            self._is_interrupted.set()
            raise

    def check(self) -> None:
        """Raises if nobody waits any more; called by the training at each step."""
        if self._is_interrupted.is_set():
            raise DocumentError(
                "Expected somebody to wait for the training", "it was interrupted", "Encode again"
            )


class TrainingWatch:
    """Follows one group's training: the bar, the log, and each adapter's last loss.

    Args:
        group: What is trained.
        steps_per_epoch: Of the group.
        epochs: Of the group.
        bar: Moved on by passages.
        log: Gets a line for each adapter and epoch.
    """

    def __init__(
        self,
        group: Sequence[Work],
        steps_per_epoch: int,
        epochs: int,
        *,
        bar: ProgressBar,
        log: LossLog,
    ) -> None:
        self._group = group
        self._steps_per_epoch = steps_per_epoch
        self._share = len(group) / (steps_per_epoch * epochs)
        self._left = float(len(group))
        self._bar = bar
        self._log = log
        self._epoch: list[Tensor] = []
        self._last = torch.full((len(group),), torch.nan)
        self._n_epochs = torch.zeros(len(group), dtype=torch.long)
        self._wait = Wait()

    def __call__(self, step: int, losses: StepLosses) -> None:
        """Takes in a step; raises if nobody waits for the training any more."""
        self._wait.check()
        self._left -= self._share
        self._bar.advance(self._share, loss=float(losses.tokens.mean()))
        self._epoch.append(losses.tokens)
        if (step + 1) % self._steps_per_epoch:
            return
        means = torch.stack(self._epoch).mean(0).cpu()  # (G,)
        self._epoch.clear()
        self._last = torch.where(losses.is_running, means, self._last)
        self._n_epochs += losses.is_running
        self._log.write([self._row(g) for g in losses.is_running.nonzero().flatten().tolist()])

    def waiting(self) -> AbstractContextManager[None]:
        """Ends the training at its next step if the wait for it ends with an error."""
        return self._wait.waiting()

    @property
    def n_passages(self) -> int:
        """How many are trained."""
        return len(self._group)

    def finish(self) -> None:
        """Moves the bar over what an early stop left out, and refuses what came to nothing."""
        self._bar.advance(max(self._left, 0.0))
        for g in (~self._last.isfinite()).nonzero().flatten().tolist():
            raise DocumentError(
                "Expected training to come to a finite loss",
                f"found {float(self._last[g])} for passage {self._group[g].passage.id!r}",
                "lower the learning rate, or clip the gradient",
            )

    def told(self, g: int) -> dict[str, Any]:
        """What an adapter's metadata says of its training."""
        return {"loss": round(float(self._last[g]), 6), "epochs": int(self._n_epochs[g])}

    def _row(self, g: int) -> dict[str, object]:
        item = self._group[g]
        return {"passage": item.passage.id, "revision": item.revision, **self.told(g)}
