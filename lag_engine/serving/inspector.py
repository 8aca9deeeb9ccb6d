"""A page to ask the served model and to see its routing; needs the extra `ui`."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import gradio

from lag_engine.aio import iterate
from lag_engine.errors import LagError
from lag_engine.heat_map import draw_heat_map
from lag_engine.serving.conversation import to_engine_messages
from lag_engine.serving.token_view import token_view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from fastapi import FastAPI
    from matplotlib.figure import Figure

    from lag_engine.model.engine import LAGEngine
    from lag_engine.model.generation import Generation, StreamPiece
    from lag_engine.serving.names import ModelNames

PATH = "/inspector"

MAX_DRAWN = 160
"""Tokens in the heat map: the answer's, and those before it that still fit."""

Turn = dict[str, Any]
Shown = tuple[list[Turn], str, Any]
"""The conversation, the coloured tokens and the heat map."""


def mount_inspector(app: FastAPI, engine: LAGEngine, names: ModelNames) -> FastAPI:
    """Adds the page to an application and returns it; the application's lifespan must run.

    Args:
        app: the page is at its /inspector.
        engine: answers.
        names: what may be asked for.
    """
    page = Inspector(engine, names).page()
    mounted: FastAPI = gradio.mount_gradio_app(app, page, path=PATH, footer_links=[])
    return mounted


class Inspector:
    """Answers the page.

    Args:
        engine: that is asked.
        names: of its models.
    """

    def __init__(self, engine: LAGEngine, names: ModelNames) -> None:
        self._engine = engine
        self._names = names

    @property
    def choices(self) -> list[str]:
        """The models that need nothing more said; any other name can be typed."""
        cards = self._names.list()
        return [
            card["id"]
            for card in cards
            if "mode" in card["lag"] and not card["lag"]["needs_adapters"]
        ]

    def page(self) -> gradio.Blocks:
        """Returns the page."""
        choices = self.choices
        with gradio.Blocks(title="LAG inspector", analytics_enabled=False) as page:
            gradio.Markdown(f"## {self._names.base}: which adapters answer?")
            with gradio.Row():
                model = gradio.Dropdown(
                    choices,
                    value=choices[min(1, len(choices) - 1)],
                    label="Model (or BASE:ADAPTER)",
                    allow_custom_value=True,
                )
                n_tokens = gradio.Slider(1, 512, value=64, step=1, label="Most new tokens")
                temperature = gradio.Slider(0, 2, value=0, step=0.1, label="Temperature")
            chat = gradio.Chatbot(height=300, label="Conversation", buttons=["copy"])
            question = gradio.Textbox(
                label="Question", placeholder="Ask, then press Enter", submit_btn=True
            )
            tokens = gradio.HTML()
            picture = gradio.Plot(label="Tokens across, modules down", format="png")
            asked = question.submit(_ask, [question, chat], [question, chat], queue=False)
            asked.success(
                self.answer, [chat, model, n_tokens, temperature], [chat, tokens, picture]
            )
        return page  # type: ignore[no-any-return]

    async def answer(
        self, turns: list[Turn], model: str, n_tokens: int, temperature: float
    ) -> AsyncIterator[Shown]:
        """Yields the conversation as the answer grows, then its routing or what was refused.

        Args:
            turns: the conversation; the last is the question.
            model: a served name.
            n_tokens: the most to write.
            temperature: of the sampling.
        """
        start = partial(self._start, turns, model, int(n_tokens), float(temperature))
        text = ""
        try:
            async with aclosing(iterate(start)) as pieces:
                async for piece in pieces:
                    text += piece.text
                    grown = [*turns, {"role": "assistant", "content": text}]
                    yield grown, *_routing(piece.generation)
        except LagError as error:
            yield turns, f"<p><b>{type(error).__name__}</b> {escape(str(error))}</p>", None

    def _start(
        self, turns: list[Turn], model: str, n_tokens: int, temperature: float
    ) -> Iterator[StreamPiece]:
        messages = to_engine_messages([{k: t[k] for k in ("role", "content")} for t in turns])
        return self._engine.stream(
            messages,
            plan=self._names.plan(model),
            trace=True,
            max_new_tokens=n_tokens,
            temperature=temperature,
        )


def _ask(question: str, turns: list[Turn]) -> tuple[str, list[Turn]]:
    """Moves the question from its field into the conversation."""
    if not question.strip():
        raise gradio.Error(
            "Expected a question. The field is empty. Write one.", print_exception=False
        )
    return "", [*turns, {"role": "user", "content": question}]


def _routing(generation: Generation | None) -> tuple[str, Figure | None]:
    """The coloured tokens and the heat map, once there is a whole answer."""
    if generation is None:
        return "", None
    trace = generation.trace
    if trace is None or not trace.decisions:
        return token_view(generation), None
    drawn, n_cut = _last_tokens(trace.to_dict())
    picture = draw_heat_map(
        drawn,
        title=f"{generation.plan.mode}: {generation.text}",
        n_prompt_tokens=max(0, len(generation.prompt_token_ids) - n_cut),
    )
    return token_view(generation), picture


def _last_tokens(trace: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The end of a trace, and how many tokens came before it."""
    n_cut = max(0, len(trace["tokens"]) - MAX_DRAWN)
    decisions = [{**d, "adapters": d["adapters"][n_cut:]} for d in trace["decisions"]]
    return {**trace, "tokens": trace["tokens"][n_cut:], "decisions": decisions}, n_cut
