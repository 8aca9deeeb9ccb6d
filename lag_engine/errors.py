"""What can go wrong, in one tree; catch at any level.

LagError
├── AdapterError
│   ├── AdapterFormatError          cannot be read: missing, corrupt, Git-LFS pointer, NaN
│   ├── UnsupportedAdapterError     can be read, cannot be applied exactly: DoRA, trained bias, ...
│   └── AdapterMismatchError        another base model, wrong shapes, modules the model lacks
├── LibraryError
│   ├── AdapterNotFoundError
│   ├── DuplicateAdapterError
│   ├── LibraryLockedError          another writer holds the library
│   └── LibraryCorruptError
├── PlanError
├── ModelError
├── DocumentError                   a passage, a file or an augmentation cannot be used
├── EvaluationError                 records, questions or results cannot be evaluated
└── GenerationError
    ├── PromptTooLongError
    └── BusyError                   too many requests wait already

AdapterWarning (a UserWarning)
├── DeadAdapterWarning              the adapter is valid and changes nothing
└── UnknownFieldWarning             its config sets a field that this version does not know
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class LagError(Exception):
    """The root: a mistake of the user, a file or a model, told in words.

    Every message says what was expected, what was found and where, and what to do.

    Args:
        expected: what should have been there.
        found: what was found instead, and where; omit when `expected` is the whole message.
        action: what the reader can do about it.
    """

    def __init__(self, expected: str, found: str = "", action: str = "") -> None:
        self.expected = expected
        self.found = found
        self.action = action
        super().__init__(" ".join(_sentence(part) for part in (expected, found, action) if part))

    def __reduce__(self) -> tuple[type[LagError], tuple[str, str, str]]:
        return type(self), (self.expected, self.found, self.action)


def _sentence(part: str) -> str:
    text = part.strip()
    if text.split(" ", 1)[0].isalpha():
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


class AdapterError(LagError):
    """An adapter cannot be used."""


class AdapterFormatError(AdapterError):
    """The adapter's files cannot be read: missing, truncated, a Git-LFS pointer, not finite."""


class UnsupportedAdapterError(AdapterError):
    """The adapter is sound, but what it computes cannot be applied exactly."""


class AdapterMismatchError(AdapterError):
    """The adapter belongs to another base model: its name, shapes or modules differ."""


class LibraryError(LagError):
    """The adapter library cannot do what was asked."""


class AdapterNotFoundError(LibraryError):
    """A name is not in the library."""

    @classmethod
    def of(cls, unknown: Iterable[str], known: Collection[str]) -> AdapterNotFoundError:
        """Returns the error for unknown names; it suggests near matches among the known."""
        missing = sorted(unknown)
        near = {match for name in missing for match in difflib.get_close_matches(name, known)}
        return cls(
            "Expected adapters that are in the library",
            f"Found no {', '.join(map(repr, missing[:5]))} among {len(known)} adapters",
            f"Did you mean {', '.join(map(repr, sorted(near)[:5]))}?"
            if near
            else "List the library's adapters to see what there is",
        )


class DuplicateAdapterError(LibraryError):
    """The name is taken by another adapter of the library."""


class LibraryLockedError(LibraryError):
    """Another writer holds the library."""


class LibraryCorruptError(LibraryError):
    """The library's files do not say what its manifest says."""


class PlanError(LagError):
    """The plan contradicts itself, or names what does not exist."""


class ModelError(LagError):
    """The base model cannot be loaded, or its modules cannot be routed."""


class DocumentError(LagError):
    """A passage, a file of documents, or what was made of one cannot be used."""


class EvaluationError(LagError):
    """Records, questions or a results file cannot be evaluated."""


class GenerationError(LagError):
    """Text cannot be generated as asked."""


class PromptTooLongError(GenerationError):
    """The prompt and the requested new tokens do not fit the model's context."""


class BusyError(GenerationError):
    """Too many requests wait for the model; ask again later."""


class AdapterWarning(UserWarning):
    """An adapter is accepted, but its owner should look at it."""


class DeadAdapterWarning(AdapterWarning):
    """The adapter's update is zero in every module: it is accepted and changes nothing."""


class UnknownFieldWarning(AdapterWarning):
    """The adapter's config sets a field that this version does not know and does not apply."""
