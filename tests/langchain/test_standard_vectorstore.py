"""LangChain's own suite over the Chroma store that we hand out, on disk."""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from lag_integrations.chroma import close_client, open_client
from lag_integrations.langchain.chroma import open_collection


class TestStandardVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        client = open_client(tmp_path)
        yield open_collection(client, "world", self.get_embeddings(), embedding_name="standard")
        close_client(tmp_path)
