"""Chroma's traps, as far as no framework is involved; each row has a test named after it."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import chromadb
import pytest
from chromadb.config import Settings

from lag_engine import LagError
from lag_integrations.chroma import (
    Entry,
    close_client,
    collection_name,
    open_client,
    open_collection,
    replace_entries,
)
from lag_integrations.embedding_model import EmbeddingModel

MODEL = EmbeddingModel("model", "1")


def entry(name, vector=(1.0, 0.0), **metadata):
    return Entry(name, f"text {name}", vector, metadata)


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "chroma"
    close_client(tmp_path / "chroma")


@pytest.fixture
def client(folder):
    return open_client(folder)


@pytest.fixture
def collection(client):
    return open_collection(client, "world", embedding=MODEL)


def in_another_process(code):
    code = textwrap.dedent(code)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return ran.stdout.strip() or ran.stderr


def write_elsewhere(folder):
    return in_another_process(f"""
        from lag_integrations.chroma import *
        from lag_integrations.embedding_model import EmbeddingModel
        client = open_client({str(folder)!r})
        collection = open_collection(client, "world", embedding=EmbeddingModel("model", "1"))
        try:
            print(replace_entries(client, collection, [Entry("b", "text b", [0.0, 1.0], {{}})]))
        except Exception as error:
            print(error)
    """)


def nearest(collection, vector=(0.0, 1.0)):
    return collection.query(query_embeddings=[list(vector)], n_results=9)["ids"][0]


def test_trap_one_client_per_path_however_it_is_spelt(client, folder):
    assert open_client(str(folder / ".." / folder.name)) is client


def test_trap_same_path_with_other_settings_is_an_error(client, folder):
    with pytest.raises(LagError, match="other settings"):
        open_client(folder, settings=Settings(allow_reset=True))


def test_trap_another_process_sees_what_was_written_before_it_opened(client, collection, folder):
    replace_entries(client, collection, [entry("a")])
    code = f"""
        from lag_integrations.chroma import *
        collection = open_client({str(folder)!r}).get_collection("world", embedding_function=None)
        print(collection.query(query_embeddings=[[0.0, 1.0]], n_results=9)["ids"])
    """
    assert in_another_process(code) == "[['a']]"


def test_trap_a_query_sees_another_process_write_after_reopening(client, collection, folder):
    replace_entries(client, collection, [entry("a")])
    close_client(folder)
    collection = open_collection(open_client(folder), "world", embedding=MODEL)
    assert nearest(collection) == ["a"]
    assert write_elsewhere(folder) == "1"
    assert sorted(collection.get()["ids"]) == ["a", "b"]
    close_client(folder)
    collection = open_collection(open_client(folder), "world", embedding=MODEL)
    assert nearest(collection) == ["b", "a"]


def test_trap_a_second_writing_process_is_refused(client, collection, folder):
    replace_entries(client, collection, [entry("a")])
    assert "only process that writes" in write_elsewhere(folder)
    close_client(folder)
    assert write_elsewhere(folder) == "1"


@pytest.mark.parametrize("name", ["a b", "é", "x", "a..b", "127.0.0.1", "-ab", "a" * 513, ""])
def test_trap_illegal_collection_names_are_refused_and_can_be_made_legal(client, name):
    with pytest.raises(LagError, match="collection name"):
        open_collection(client, name, embedding=MODEL)
    legal = collection_name(name)
    assert open_collection(client, legal, embedding=MODEL).name == legal
    assert collection_name(legal) == legal


def test_names_made_legal_stay_apart():
    assert collection_name("a b") != collection_name("a/b")


def test_trap_the_space_is_cosine_also_for_vectors_of_any_length(client, collection):
    replace_entries(client, collection, [entry("a", (30.0, 0.0)), entry("b", (0.0, 0.1))])
    found = collection.query(query_embeddings=[[0.0, 7.0]], n_results=2)
    assert found["ids"] == [["b", "a"]]
    assert found["distances"][0] == pytest.approx([0.0, 1.0], abs=1e-6)


def test_trap_another_space_is_refused(client):
    client.create_collection("world", metadata={"lag_embedding": "model"})
    with pytest.raises(LagError, match="space 'l2'"):
        open_collection(client, "world", embedding=MODEL)


@pytest.mark.parametrize("other", [EmbeddingModel("other", "1"), EmbeddingModel("model", "2")])
def test_trap_another_embedding_model_or_revision_is_refused(client, collection, other):
    with pytest.raises(LagError, match="embedded by 'model@1'"):
        open_collection(client, "world", embedding=other)


def test_an_unknown_revision_equals_any(client, collection):
    assert open_collection(client, "world", embedding=EmbeddingModel("model")).id == collection.id


@pytest.mark.filterwarnings("ignore:legacy embedding function:DeprecationWarning")
def test_trap_no_embedding_function_is_stored_so_none_is_ever_downloaded(collection):
    with pytest.raises(ValueError, match="provide an embedding function"):
        collection.query(query_texts=["text"])


def test_trap_add_would_ignore_and_upsert_would_merge_so_entries_are_replaced(client, collection):
    replace_entries(client, collection, [entry("a", adapter_id="old", adapter_rev="1")])
    replace_entries(client, collection, [entry("a", (0.0, 1.0), title="new")])
    assert collection.count() == 1
    found = collection.get(["a"], include=["metadatas", "embeddings"])
    assert found["metadatas"] == [{"title": "new"}]
    assert found["embeddings"].tolist() == [[0.0, 1.0]]


def test_trap_six_thousand_entries_go_in_twice_without_doubling(client, collection):
    entries = [entry(str(i), (1.0, i / 6000)) for i in range(6000)]
    assert client.get_max_batch_size() < 6000
    assert replace_entries(client, collection, entries) == 6000
    replace_entries(client, collection, entries)
    assert collection.count() == 6000


def test_trap_another_dimension_is_refused_and_changes_nothing(client, collection):
    replace_entries(client, collection, [entry("a", title="kept")])
    with pytest.raises(LagError, match="instead of 2"):
        replace_entries(client, collection, [entry("a", (1.0, 0.0, 0.0))])
    assert collection.get(["a"])["metadatas"] == [{"title": "kept"}]


@pytest.mark.parametrize(
    "metadata", [{"adapter_id": ["a", "b"]}, {"x": {}}, {"x": []}, {"x": [1, "a"]}]
)
def test_trap_metadata_that_chroma_or_llama_index_cannot_hold_is_refused(
    client, collection, metadata
):
    with pytest.raises(LagError, match="in the document 'a'"):
        replace_entries(client, collection, [entry("a", **metadata)])


def test_trap_metadata_may_be_empty_none_or_a_list(client, collection):
    replace_entries(client, collection, [entry("a"), entry("b", tags=["x", "y"], gone=None)])
    assert collection.get(["a", "b"])["metadatas"] == [None, {"tags": ["x", "y"]}]


@pytest.mark.parametrize("ids", [[""], ["a", "a"]])
def test_entries_need_ids_of_their_own(client, collection, ids):
    with pytest.raises(LagError, match="id"):
        replace_entries(client, collection, [entry(i) for i in ids])


@pytest.mark.parametrize("places", [{}, {"path": "x", "url": "http://localhost:1"}])
def test_a_client_has_either_a_path_or_a_url(places):
    with pytest.raises(LagError, match="either a path or a url"):
        open_client(**places)


def test_a_url_of_no_server_is_refused_with_what_to_start():
    with pytest.raises(LagError, match="chroma run"):
        open_client(url="localhost")
    with pytest.raises(LagError, match="chroma run"):
        open_client(url="http://localhost:1")


def test_clients_in_memory_need_no_lock():
    client = chromadb.EphemeralClient()
    collection = open_collection(client, collection_name(__name__), embedding=MODEL)
    assert replace_entries(client, collection, [entry("a")]) == 1


@pytest.fixture
def server(tmp_path):
    """The url of a Chroma server on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chroma = str(Path(sys.executable).with_name("chroma"))
    command = [chroma, "run", "--path", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield f"http://localhost:{port}"
        process.terminate()


@pytest.mark.slow
def test_trap_by_url_a_query_sees_another_client_s_write_at_once(server):
    clients = [wait_for(server) for _ in range(2)]
    first, second = (open_collection(c, "world", embedding=MODEL) for c in clients)
    replace_entries(clients[0], first, [entry("a")])
    assert nearest(second) == ["a"]
    replace_entries(clients[1], second, [entry("b", (0.0, 1.0))])
    assert nearest(first) == ["b", "a"]


def wait_for(url):
    for _ in range(100):
        try:
            return open_client(url=url)
        except LagError:
            time.sleep(0.2)
    raise TimeoutError(url)
