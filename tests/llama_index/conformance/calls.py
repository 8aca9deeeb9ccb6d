"""What a call reads, and what its response tells."""

from __future__ import annotations

import json

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
)
from llama_index.core.callbacks import (
    CallbackManager,
    TokenCountingHandler,
)
from llama_index.core.llms import LLM

from tests.llama_index.conformance.suite import (
    ECHO,
    Base,
    in_every_way,
    last,
    text_of,
    usage_of,
    user,
)


class Prompts(Base):
    """Special tokens, the system prompt and the prompt functions."""

    def _tokens_read(self, response: ChatResponse | CompletionResponse) -> int:
        if not self.returns_usage:
            pytest.skip("`returns_usage` is False")
        return usage_of(response)["prompt_tokens"]

    def test_special_tokens_come_once(self, llm: LLM) -> None:
        messages = user(self.question)
        expected = self.count_prompt_tokens(llm, messages)
        if expected is None:
            pytest.skip("`count_prompt_tokens` cannot tell")
        assert self._tokens_read(llm.chat(messages)) == expected

    async def test_the_system_prompt_is_read_exactly_once_in_every_way(self, llm: LLM) -> None:
        said = [ChatMessage(role="system", content="Answer in one word."), *user(self.question)]
        expected = self._tokens_read(llm.chat(said))
        assert expected > self._tokens_read(llm.chat(user(self.question)))
        handler = TokenCountingHandler(tokenizer=str.split)
        polite = self.copy_of(
            llm,
            system_prompt="Answer in one word.",
            callback_manager=CallbackManager([handler]),
        )
        for name, response in last(await in_every_way(polite, self.question)).items():
            assert self._tokens_read(response) == expected, name
        polite.predict(ECHO, text=self.question)
        await polite.apredict(ECHO, text=self.question)
        counts = [event.prompt_token_count for event in handler.llm_token_counts]
        assert counts[-2:] == [expected] * 2

    async def test_completion_to_prompt_is_used_in_every_completion(self, llm: LLM) -> None:
        framed = self.copy_of(llm, completion_to_prompt=lambda prompt: f"Say it: {prompt}")
        expected = self._tokens_read(llm.complete(f"Say it: {self.question}", formatted=True))
        answers = last(await in_every_way(framed, self.question))
        for name, response in answers.items():
            if "complete" in name:
                assert self._tokens_read(response) == expected, name

    def test_a_formatted_prompt_is_not_framed_again(self, llm: LLM) -> None:
        framed = self.copy_of(
            llm,
            completion_to_prompt=lambda prompt: f"Say it: {prompt}",
            system_prompt="Answer in one word.",
        )
        plain = self._tokens_read(llm.complete(self.question, formatted=True))
        assert self._tokens_read(framed.complete(self.question, formatted=True)) == plain


class Calls(Base):
    """Arguments of a call, and what its response tells."""

    async def test_usage_is_told_in_every_way(self, llm: LLM) -> None:
        if not self.returns_usage:
            pytest.skip("`returns_usage` is False")
        usages = {n: usage_of(r) for n, r in last(await self.answers_of(llm)).items()}
        for name, usage in usages.items():
            assert usage["prompt_tokens"] > 0 < usage["completion_tokens"], name
        if self.is_deterministic and llm.metadata.is_chat_model:
            assert len({json.dumps(usage) for usage in usages.values()}) == 1, usages

    async def test_raw_is_json_without_tensors(self, llm: LLM) -> None:
        for name, response in last(await self.answers_of(llm)).items():
            if isinstance(response.raw, dict):
                assert json.loads(json.dumps(response.raw)) == response.raw, name

    async def test_the_token_counting_handler_counts_what_usage_tells(self, llm: LLM) -> None:
        if not self.returns_usage:
            pytest.skip("`returns_usage` is False")
        handler = TokenCountingHandler(tokenizer=str.split)
        heard = self.copy_of(llm, callback_manager=CallbackManager([handler]))
        usages = [usage_of(r) for r in last(await in_every_way(heard, self.question)).values()]
        assert handler.prompt_llm_token_count == sum(u["prompt_tokens"] for u in usages)
        assert handler.completion_llm_token_count == sum(u["completion_tokens"] for u in usages)

    async def test_max_tokens_of_a_call_is_honoured_in_every_way(self, llm: LLM) -> None:
        if self.max_tokens is None or not self.returns_usage:
            pytest.skip("`max_tokens` is None, or no usage")
        answers = last(await in_every_way(llm, self.question, **{self.max_tokens: 2}))
        for name, response in answers.items():
            assert usage_of(response)["completion_tokens"] <= 2, name

    async def test_stop_strings_of_several_tokens_end_the_answer_before_them(
        self, llm: LLM
    ) -> None:
        if self.stop is None or not self.is_deterministic:
            pytest.skip("`stop` is None, or not deterministic")
        whole = text_of(llm.chat(user(self.question)))
        assert len(whole) >= 12, "Set `question` to one with a longer answer"
        stop = whole[len(whole) // 3 : 2 * len(whole) // 3]
        expected = whole[: whole.index(stop)]
        answers = last(await in_every_way(llm, self.question, **{self.stop: [stop]}))
        for name, response in answers.items():
            if "chat" in name or llm.metadata.is_chat_model:
                assert text_of(response).strip() == expected.strip(), name
