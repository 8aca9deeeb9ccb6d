"""A chat model with arguments bound, which stay bound when tools or a schema come after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import _ChatModelBinding
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from lag_integrations.langchain.tools import ToolLike


class LAGBinding(_ChatModelBinding):  # type: ignore[no-redef]
    """What `LAGChatModel.bind` returns.

    LangChain's own binding hands `bind_tools` and `with_structured_output` to the model behind it,
    and what was bound is lost without a word: the answer then comes from other adapters.
    """

    def bind_tools(
        self, tools: Sequence[ToolLike], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """As for the model; what was bound before stays, unless it is bound anew."""
        bound: Self = self._model.bind_tools(tools, **kwargs)
        kept = {**self.kwargs, **bound.kwargs}
        return type(self)(bound=self.bound, kwargs=kept, config=self.config)

    def with_structured_output(
        self, schema: dict[str, Any] | type | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """As for the model; what was bound before stays, unless it is bound anew."""
        structured: Runnable[LanguageModelInput, Any] = self._model.with_structured_output(
            schema, **{**self.kwargs, **kwargs}
        )
        return structured.with_config(self.config) if self.config else structured

    @property
    def _model(self) -> Any:
        return cast("Any", self.bound)
