"""The system prompt, and the two prompt functions: each applied once, on every way in."""

from __future__ import annotations

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage

SYSTEM = {"role": "system", "content": "Be kind."}
USER = {"role": "user", "content": "Where is it"}


def template(text="{x}"):
    return PromptTemplate(text)


@pytest.fixture
def polite(make_llm, engine):
    return make_llm(engine, system_prompt="Be kind.")


@pytest.mark.parametrize("method", ["chat", "complete", "predict", "stream", "stream_complete"])
def test_the_system_prompt_comes_exactly_once(polite, engine, method):
    if method == "chat":
        polite.chat([ChatMessage(content="Where is it")])
    elif method in ("predict", "stream"):
        "".join(getattr(polite, method)(template(), x="Where is it"))
    else:
        list(getattr(polite, method)("Where is it"))
    assert engine.prompt == [SYSTEM, USER]


async def test_the_system_prompt_comes_exactly_once_in_async_calls(polite, engine):
    await polite.achat([ChatMessage(content="Where is it")])
    await polite.acomplete("Where is it")
    await polite.apredict(template(), x="Where is it")
    _ = [token async for token in await polite.astream(template(), x="Where is it")]
    assert [prompt for prompt, _ in engine.calls] == [[SYSTEM, USER]] * 4


def test_a_conversations_own_system_message_follows_the_llms(polite, engine):
    own = ChatMessage(role="system", content="Be brief.")
    polite.chat([own, ChatMessage(content="Where is it")])
    assert engine.prompt == [{"role": "system", "content": "Be kind.\n\nBe brief."}, USER]


def test_complete_is_the_users_message_for_a_model_with_a_chat_template(llm, engine):
    llm.complete("Where is it")
    assert engine.prompt == [USER]


def test_a_formatted_prompt_is_read_as_it_is(polite, engine):
    polite.complete("<s>Where", formatted=True)
    assert engine.prompt == "<s>Where"


def test_completion_to_prompt_is_consistent_between_complete_and_stream_complete(make_llm, engine):
    llm = make_llm(engine, completion_to_prompt=lambda p: f"<{p}>", system_prompt="Be kind.")
    llm.complete("Where")
    list(llm.stream_complete("Where"))
    first, second = (prompt for prompt, _ in engine.calls)
    assert first == second == "Be kind.\n\n<Where>"


def test_messages_to_prompt_of_the_users_is_used(make_llm, engine):
    llm = make_llm(engine, messages_to_prompt=lambda ms: "|".join(m.content for m in ms))
    llm.chat([ChatMessage(role="system", content="a"), ChatMessage(content="b")])
    assert engine.prompt == "a|b"


def test_a_model_without_a_chat_template_completes_text(make_llm, engine):
    engine.tokenizer.chat_template = None
    llm = make_llm(engine, system_prompt="Be kind.")
    assert not llm.metadata.is_chat_model
    llm.complete("Where is it")
    llm.predict(template(), x="Where is it")
    assert [prompt for prompt, _ in engine.calls] == ["Be kind.\n\nWhere is it"] * 2
    llm.chat([ChatMessage(content="Where is it")])
    assert engine.prompt == "system: Be kind.\nuser: Where is it\nassistant: "
