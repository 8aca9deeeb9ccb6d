"""The eight methods, metadata and serialised form."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import AsyncGenerator, Generator

import pytest
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)
from llama_index.core.llms import LLM

from tests.llama_index.conformance.suite import ECHO, Base, drain, last, text_of, user


class Contract(Base):
    """The eight methods, metadata and serialised form."""

    def test_metadata_is_told_and_steady(self, llm: LLM) -> None:
        metadata = llm.metadata
        assert isinstance(metadata, LLMMetadata)
        assert metadata == llm.metadata
        assert metadata.context_window > metadata.num_output > 0
        assert metadata.model_name not in ("", "unknown")

    def test_it_has_a_class_name_of_its_own(self, llm: LLM) -> None:
        assert llm.class_name() not in ("", "base_component", "custom_llm")

    async def test_responses_have_the_types_that_callers_expect(self, llm: LLM) -> None:
        for name, answer in (await self.answers_of(llm)).items():
            expected = ChatResponse if "chat" in name else CompletionResponse
            for response in answer if isinstance(answer, list) else [answer]:
                assert isinstance(response, expected), name
        assert llm.chat(user(self.question)).message.role == MessageRole.ASSISTANT

    def test_sync_streams_are_generators(self, llm: LLM) -> None:
        for stream in (llm.stream_chat(user("Hi")), llm.stream_complete("Hi")):
            assert isinstance(stream, Generator)
            stream.close()

    async def test_async_streams_are_coroutines_that_return_generators(self, llm: LLM) -> None:
        for coroutine in (llm.astream_chat(user("Hi")), llm.astream_complete("Hi")):
            assert inspect.iscoroutine(coroutine)
            stream = await coroutine
            assert isinstance(stream, AsyncGenerator)
            await stream.aclose()

    async def test_streamed_text_is_cumulative_and_delta_is_new(self, llm: LLM) -> None:
        for name, responses in (await self.answers_of(llm)).items():
            if isinstance(responses, list):
                deltas = [response.delta or "" for response in responses]
                expected = ["".join(deltas[: i + 1]) for i in range(len(deltas))]
                assert [text_of(response) for response in responses] == expected, name

    async def test_answers_come_in_more_than_one_piece(self, llm: LLM) -> None:
        for name, responses in (await self.answers_of(llm)).items():
            if isinstance(responses, list):
                assert sum(bool(response.delta) for response in responses) > 1, name

    async def test_every_method_gives_the_same_answer(self, llm: LLM) -> None:
        if not self.is_deterministic:
            pytest.skip("`is_deterministic` is False")
        texts = {n: text_of(r) for n, r in last(await self.answers_of(llm)).items()}
        for kind in ("chat", "complete"):
            assert len({text for name, text in texts.items() if kind in name}) == 1, texts
        if llm.metadata.is_chat_model:  # then a completion is the user's message
            assert len(set(texts.values())) == 1, texts

    async def test_predict_and_stream_answer_as_chat_does(self, llm: LLM) -> None:
        if not (self.is_deterministic and llm.metadata.is_chat_model):
            pytest.skip("not deterministic, or no chat model")
        expected = text_of(llm.chat(user(self.question)))
        assert llm.predict(ECHO, text=self.question) == expected
        assert "".join(llm.stream(ECHO, text=self.question)) == expected
        assert await llm.apredict(ECHO, text=self.question) == expected
        tokens = await drain(await llm.astream(ECHO, text=self.question))
        assert "".join(tokens) == expected

    def test_conversations_of_every_shape_are_answered(self, llm: LLM) -> None:
        thought = [ThinkingBlock(content="Hm."), TextBlock(text="Yes.")]
        conversations = [
            [ChatMessage(role="system", content="Be kind."), *user("Hi")],
            [*user("Hi"), ChatMessage(role="assistant", content="Yes."), *user("And now?")],
            [*user("Hi"), *user("Again")],
            [*user("Hi"), ChatMessage(role="assistant", blocks=thought), *user("And now?")],
            [ChatMessage(role="user", blocks=[TextBlock(text="Hi"), TextBlock(text="again")])],
        ]
        for messages in conversations:
            assert isinstance(llm.chat(messages), ChatResponse)

    def test_calls_do_not_change_their_messages(self, llm: LLM) -> None:
        messages = [ChatMessage(role="system", content="Be kind."), *user(self.question)]
        before = [message.model_dump() for message in messages]
        llm.chat(messages)
        assert [message.model_dump() for message in messages] == before

    def test_blocks_that_it_cannot_read_are_rejected_loudly(self, llm: LLM) -> None:
        if self.supports_images:
            pytest.skip("`supports_images` is True")
        picture = ImageBlock(image=b"\x89PNG\r\n\x1a\n")
        with pytest.raises(Exception, match="image"):
            llm.chat([ChatMessage(blocks=[TextBlock(text="What is it?"), picture])])

    def test_its_serialised_form_makes_it_again(self, llm: LLM) -> None:
        told = llm.to_dict()
        assert told["class_name"] == llm.class_name()
        json.dumps(told)
        assert type(llm).from_dict(told).to_dict() == told

    def test_its_payload_for_traces_is_json(self, llm: LLM) -> None:
        assert json.loads(json.dumps(llm.to_payload()))["class_name"] == llm.class_name()

    @pytest.mark.filterwarnings("error")
    def test_it_survives_pickling(self, llm: LLM) -> None:
        assert pickle.loads(pickle.dumps(llm)).to_dict() == llm.to_dict()
