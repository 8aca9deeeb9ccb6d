"""LangChain's own integration tests for chat models, run against the shipped model.

Nothing is scripted: lag-tiny answers under mode "lag", so that its tool adapter is found by
routing, and calls and schemas are kept to by guided decoding. Nothing is expected to fail.
"""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from lag_integrations.engines import EngineKey, get_engine, register_engine
from lag_integrations.langchain import LAGChatModel

OTHER = EngineKey("lag-tiny-by-another-name")

pytestmark = [
    pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning"),
    pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"),
]


@pytest.fixture(scope="module", autouse=True)
def _another_name():
    engine = get_engine(LAGChatModel().engine_key)
    register_engine(OTHER, engine)


class TestLAGChatModelIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return LAGChatModel

    @property
    def chat_model_params(self):
        return {"model": "lag-tiny", "mode": "lag", "max_tokens": 128}

    @property
    def model_override_value(self):
        return OTHER.model

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_anthropic_inputs(self):
        return True

    @property
    def enable_vcr_tests(self):
        """Nothing is recorded: a local model sends no requests, so the test runs the model."""
        return True
