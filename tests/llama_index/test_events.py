"""Instrumentation events and callbacks: LlamaIndex's own, and the routing event between them."""

from __future__ import annotations

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.llms import ChatMessage

from lag_engine import LagError
from lag_integrations.llama_index import LAGRoutingEvent

ASK = [ChatMessage(content="Where is it")]


class Ear(BaseEventHandler):
    """Keeps what it hears."""

    heard: list

    def handle(self, event, **kwargs):
        self.heard.append(event)

    @property
    def names(self):
        return [event.class_name() for event in self.heard]


@pytest.fixture
def ear():
    dispatcher = get_dispatcher()
    handler = Ear(heard=[])
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


def test_the_routing_event_comes_between_chat_start_and_end(llm, ear):
    response = llm.chat(ASK)
    assert ear.names == ["LLMChatStartEvent", "LAGRoutingEvent", "LLMChatEndEvent"]
    start, routing, _ = ear.heard
    assert isinstance(routing, LAGRoutingEvent)
    assert routing.routing == response.raw["lag_routing"]
    assert routing.span_id == start.span_id is not None


def test_the_routing_event_comes_between_completion_start_and_end(llm, ear):
    llm.complete("Where")
    assert ear.names == ["LLMCompletionStartEvent", "LAGRoutingEvent", "LLMCompletionEndEvent"]


async def test_a_streams_events_come_in_order_and_in_one_span(llm, ear):
    list(llm.stream_chat(ASK))
    _ = [r async for r in await llm.astream_chat(ASK)]
    n = len(ear.names) // 2
    assert ear.names[:n] == ear.names[n:]
    assert ear.names[:n] == [
        "LLMChatStartEvent",
        *["LLMChatInProgressEvent"] * 3,
        "LAGRoutingEvent",
        "LLMChatInProgressEvent",
        "LLMChatEndEvent",
    ]
    assert len({event.span_id for event in ear.heard}) == 2


def test_an_error_in_a_stream_is_an_event(make_llm, scripted, ear):
    with pytest.raises(LagError):
        list(make_llm(scripted(LagError("a", "b", "c"))).stream_chat(ASK))
    assert ear.names[-1] == "ExceptionEvent"


def test_callbacks_hear_each_call_once(make_llm, engine):
    from llama_index.core.callbacks import LlamaDebugHandler

    handler = LlamaDebugHandler(print_trace_on_end=False)
    llm = make_llm(engine, callback_manager=CallbackManager([handler]))
    llm.chat(ASK)
    llm.complete("Where")
    assert len(handler.get_event_pairs(CBEventType.LLM)) == 2


async def test_the_token_counting_handler_counts_what_the_model_read_and_wrote(tiny_llm):
    handler = TokenCountingHandler(tokenizer=tiny_llm.tokenizer)
    llm = tiny_llm.with_changes(callback_manager=CallbackManager([handler]))
    usages = [
        llm.chat(ASK).raw["usage"],
        list(llm.stream_chat(ASK))[-1].raw["usage"],
        (await llm.acomplete("Where is it")).raw["usage"],
    ]
    assert handler.prompt_llm_token_count == sum(u["prompt_tokens"] for u in usages)
    assert handler.completion_llm_token_count == sum(u["completion_tokens"] for u in usages)


def test_usage_counts_the_template_as_the_engine_does(tiny_llm):
    usage = tiny_llm.chat(ASK).raw["usage"]
    messages = [{"role": "user", "content": "Where is it"}]
    assert usage["prompt_tokens"] == len(tiny_llm.engine.tokenize_messages(messages))
