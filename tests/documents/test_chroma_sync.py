"""One call brings a folder into Chroma and the library, and keeps both in step."""

from __future__ import annotations

import pytest

from lag_engine.documents import DocumentStore
from lag_integrations.adapter_index import AdapterIndex
from lag_integrations.chroma import close_client, open_client
from lag_integrations.chroma_index import ChromaIndex
from lag_integrations.embedding_model import EmbeddingModel


class Letters:
    """Embeds by counting letters."""

    embedding_model = EmbeddingModel("letters", "1")

    def embed_documents(self, texts):
        return [[1.0 + text.lower().count(letter) for letter in "abcdefgh"] for text in texts]


@pytest.fixture
def client(tmp_path):
    yield open_client(tmp_path / "chroma")
    close_client(tmp_path / "chroma")


def test_a_folder_is_synchronised_into_chroma_and_the_library(client, library, prag, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "rosa.txt").write_text("Rosa Sinclair was born in Lisbon.")
    (folder / "ada.txt").write_text("Ada Brandt was born in Oslo.")
    index = ChromaIndex(client, "docs", Letters())
    store = DocumentStore(library, index=index)
    collection = client.get_collection("docs", embedding_function=None)

    def found():
        got = collection.get()
        finder = AdapterIndex(library)
        return {
            key: (text, finder.find(metadata).status)
            for key, text, metadata in zip(
                got["ids"], got["documents"], got["metadatas"], strict=True
            )
        }

    store.sync(folder, prag())
    assert found() == {
        "ada.txt#0": ("Ada Brandt was born in Oslo.", "current"),
        "rosa.txt#0": ("Rosa Sinclair was born in Lisbon.", "current"),
    }
    (folder / "rosa.txt").write_text("Rosa Sinclair sails.")
    prag().encode([store.documents()[0].chunks[0].passage])
    (folder / "ada.txt").unlink()
    store.sync(folder, prag())
    assert found() == {"rosa.txt#0": ("Rosa Sinclair sails.", "current")}
    metadata = collection.get()["metadatas"][0]
    assert metadata["document_id"] == "rosa.txt"
    assert [info.name for info in library.list()] == [metadata["adapter_id"]]
    store.close()


def test_an_adapter_that_was_encoded_past_the_store_is_seen_as_stale(
    client, library, prag, tmp_path
):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "rosa.txt").write_text("Rosa Sinclair was born in Lisbon.")
    store = DocumentStore(library, index=ChromaIndex(client, "docs", Letters()))
    store.sync(folder, prag())
    passage = store.documents()[0].chunks[0].passage
    prag(augment=lambda p: p).encode([passage])
    metadata = client.get_collection("docs", embedding_function=None).get()["metadatas"][0]
    assert AdapterIndex(library).find(metadata).status == "stale"
    store.sync(folder, prag())
    metadata = client.get_collection("docs", embedding_function=None).get()["metadatas"][0]
    assert AdapterIndex(library).find(metadata).status == "current"
    store.close()
