"""From a prompt or a conversation to the token ids the model reads, special tokens once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from lag_engine.errors import GenerationError, PromptTooLongError
from lag_engine.model.conversations import Message, merged, written_out
from lag_engine.model.tools import ToolFormat, detect_tool_format

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Prompt = str | Sequence[Message] | Sequence[int]
"""Raw text, a conversation, or token ids that are used as they are."""


class PromptEncoder:
    """Turns prompts into token ids and refuses those the model cannot read whole.

    Args:
        tokenizer: the model's.
        context_length: the most positions the model has; None if it has no such bound.
        vocabulary_size: how many token ids the model reads.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        context_length: int | None,
        vocabulary_size: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.vocabulary_size = vocabulary_size
        # A fast tokenizer is one object behind all threads, and encoding may change its settings.
        self._lock = threading.Lock()

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """How the model's chat template writes tool calls; None if it takes no tools we know."""
        if not self.tokenizer.chat_template:
            return None
        return detect_tool_format(
            lambda messages, tools: str(self._render(messages, tools=tools, tokenize=False))
        )

    def encode(
        self, prompt: Prompt, *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[int, ...]:
        """The prompt's token ids.

        Args:
            prompt: what to continue or to answer.
            tools: shown to the model by its chat template; only for a conversation.

        Raises:
            GenerationError: the prompt is empty, of another type, or a conversation for a model
                without a chat template; or there are tools and it is no conversation.
            PromptTooLongError: no room for a new token is left in the model's context.
        """
        ids = self._encode(prompt, tools)
        if not ids:
            raise GenerationError(
                "Expected a prompt of at least one token",
                f"{str(prompt)!r:.100} has none",
                "give the model something to continue",
            )
        self._check_ids(ids)
        self.check_length(len(ids), room=1)
        return ids

    def encode_continuation(
        self, prompt: Prompt, continuation: str | Sequence[int]
    ) -> tuple[int, ...]:
        """The token ids that follow the prompt's when the continuation stands after it.

        After raw text they are what tokenising both together adds, unless a token would span the
        border; then, and after a conversation, the continuation is tokenised alone.
        """
        if not isinstance(continuation, str):
            self._check_ids(continuation)
            return tuple(continuation)
        if isinstance(prompt, str):
            before, both = self.text(prompt), self.text(prompt + continuation)
            if both[: len(before)] == before:
                return both[len(before) :]
        return self.text(continuation, special=False)

    def text(self, text: str, *, special: bool = True) -> tuple[int, ...]:
        """The ids of raw text; a begin token already written out in it is not added again."""
        begin = self.tokenizer.bos_token
        written = isinstance(begin, str) and bool(begin) and text.startswith(begin)
        with self._lock:
            encoded = self.tokenizer(
                text, add_special_tokens=special and not written, verbose=False
            )
        return tuple(cast("list[int]", encoded["input_ids"]))

    def messages(self, messages: Sequence[Message], **options: Any) -> tuple[int, ...]:
        """The ids of a conversation, by the model's chat template, special tokens included once.

        A template that refuses them gets them once more with neighbours of one role joined by a
        blank line; nothing else is changed for it.

        Raises:
            GenerationError: the model has no chat template, or its template refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise GenerationError(
                "Expected a model with a chat template, since the prompt is a list of messages",
                f"the tokenizer of {self.tokenizer.name_or_path or 'this model'!r} has none",
                "pass the prompt as one string, or set `tokenizer.chat_template`",
            )
        options = {"add_generation_prompt": True, **options, "tokenize": True, "return_dict": True}
        has_calls = any("tool_calls" in m or "tool_call_id" in m for m in messages)
        written = written_out(messages, self.tool_format if has_calls else None)
        joined = merged(written)
        try:
            try:
                encoded = self._render(written, **options)
            except Exception:
                if len(joined) == len(written):
                    raise
                encoded = self._render(joined, **options)
        except Exception as error:  # a template is a program: it raises whatever it likes
            raise GenerationError(
                "Expected messages that the model's chat template accepts",
                f"it refused them: {type(error).__name__}: {error}",
                "check the roles, their order and the content of each message",
            ) from error
        return tuple(encoded["input_ids"])

    def _render(self, messages: Sequence[Message], **options: Any) -> Any:
        with self._lock:
            # A prompt that is too long is refused later; the tokenizer's warning says other things.
            return self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                **{"tokenizer_kwargs": {"verbose": False}, **options},
            )

    def check_length(self, length: int, *, room: int) -> None:
        """Refuses what leaves fewer than `room` positions of the model's context free."""
        if self.context_length is None or length + room <= self.context_length:
            return
        raise PromptTooLongError(
            f"Expected at most {self.context_length - room} tokens, in a context of "
            f"{self.context_length}" + (" with one new token" if room else ""),
            f"the prompt has {length}",
            "shorten the prompt or retrieve fewer documents; nothing is ever cut off",
        )

    def _encode(self, prompt: Prompt, tools: Sequence[Mapping[str, Any]] | None) -> tuple[int, ...]:
        if is_conversation(prompt):
            return self.messages(prompt, tools=list(tools) if tools else None)
        if tools:
            raise GenerationError(
                "Expected a list of messages, since tools are shown by the chat template",
                f"got {type(prompt).__name__} as the prompt",
                'pass [{"role": "user", "content": ...}]',
            )
        if isinstance(prompt, str):
            return self.text(prompt)
        items: list[Any] = [*prompt] if isinstance(prompt, Sequence) else [None]
        if all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            return tuple(items)
        raise GenerationError(
            "Expected a prompt: a string, a list of {'role', 'content'} messages, or token ids",
            f"got {type(prompt).__name__}: {prompt!s:.100}",
            "convert it to one of these",
        )

    def _check_ids(self, ids: Sequence[int]) -> None:
        wrong = [i for i in ids if not 0 <= i < self.vocabulary_size]
        if wrong:
            raise GenerationError(
                f"Expected token ids from 0 to {self.vocabulary_size - 1}, as the model reads",
                f"the prompt has {wrong[0]}",
                "Use the tokenizer that belongs to this model",
            )


def is_conversation(prompt: object) -> TypeGuard[Sequence[Message]]:
    """Whether the prompt is a list of messages, and not empty."""
    if not isinstance(prompt, Sequence) or not prompt:
        return False
    return all(isinstance(message, Mapping) for message in prompt)


def context_length(config: PretrainedConfig) -> int | None:
    """How many positions the model has, prompt and answer together; None if unbounded."""
    length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None
