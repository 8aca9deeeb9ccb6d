"""What is encoded: a passage, its rewrites, and questions about it with their answers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from lag_engine.errors import DocumentError

_PLAIN_NAME = 200


@dataclass(frozen=True)
class QuestionAnswer:
    """A question and the answer that a passage gives to it."""

    question: str
    answer: str

    def __post_init__(self) -> None:
        if not (self.question.strip() and self.answer.strip()):
            raise DocumentError(
                "Expected a question and an answer with text",
                f"found {self.question!r} and {self.answer!r}",
                "leave the pair out",
            )


@dataclass(frozen=True)
class Passage:
    """A piece of a document that gets an adapter of its own.

    Attributes:
        id: Stable; the adapter is found by it.
        text: What it says.
        title: Of its document; put before the text where that does not begin with it.
        pairs: Questions that it answers.
        rewrites: The same in other words.
    """

    id: str
    text: str
    title: str = ""
    pairs: tuple[QuestionAnswer, ...] = ()
    rewrites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id or not self.text.strip():
            raise DocumentError(
                "Expected a passage with an id and text",
                f"found id {self.id!r} and text {self.text[:40]!r}",
                "leave empty passages out",
            )

    @property
    def titled_text(self) -> str:
        """The text, after its title."""
        text = self.text.strip()
        title = self.title.strip()
        return text if not title or text.startswith(title) else f"{title}\n{text}"

    @property
    def text_hash(self) -> str:
        """A short hash of title and text; hex. What different encoders make of one text has it."""
        return content_hash([self.title, self.text])[:16]

    @property
    def content_hash(self) -> str:
        """A hash of all but the id; hex."""
        return content_hash({key: value for key, value in asdict(self).items() if key != "id"})


def content_hash(content: object) -> str:
    """The SHA-256 of what JSON can hold; hex; the order of keys does not matter."""
    told = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(told.encode()).hexdigest()


def adapter_name(encoder: str, passage_id: str) -> str:
    """The name of a passage's adapter; an id that cannot be part of a name is told by its hash.

    Args:
        encoder: Which made it; several encoders' adapters may lie in one library.
        passage_id: Any text.
    """
    plain = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in passage_id).strip()
    if plain == passage_id and len(plain) <= _PLAIN_NAME:
        return f"{encoder}-{plain}"
    return f"{encoder}-{plain[:_PLAIN_NAME]}-{content_hash(passage_id)[:12]}"


def check_distinct(passages: Sequence[Passage]) -> None:
    """Refuses two passages of one id.

    Raises:
        DocumentError: some id comes more than once.
    """
    repeated = [key for key, n in Counter(p.id for p in passages).items() if n > 1]
    if repeated:
        raise DocumentError(
            "Expected one passage for each id",
            f"found {len(repeated)} ids more than once, among them {repeated[0]!r}",
            "give every passage an id of its own",
        )
