"""The ingestion transform: with a small encoder that counts, then with PRAG on lag-tiny."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from llama_index.core import Document
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, NodeWithScore

from lag_engine import PRAG, AdapterLibrary, DocumentError, LAGEngine, PRAGSettings, tiny
from lag_integrations.llama_index import AdapterEncoder, AdapterPostprocessor


class CountingEncoder:
    """Keeps what it encoded; a passage that it has is current."""

    def __init__(self, settings="s", seconds=0.0):
        self.settings = settings
        self.seconds = seconds
        self.library = {}
        self.n_encoded = 0

    def revision(self, passage):
        return f"{self.settings}-{passage.content_hash[:8]}"

    def encode(self, passages):
        for passage in passages:
            if self.library.get(passage.id) != self.revision(passage):
                time.sleep(self.seconds)
                self.n_encoded += 1
                self.library[passage.id] = self.revision(passage)
        return [
            SimpleNamespace(
                name=f"fake-{p.id}", metadata={"revision": self.library[p.id]}, sha256="x"
            )
            for p in passages
        ]


def documents(*texts):
    return [Document(text=text, metadata={"title": f"T{i}"}) for i, text in enumerate(texts)]


def test_every_node_gets_its_adapter_hidden_from_prompts_and_embeddings():
    encoder = CountingEncoder()
    nodes = AdapterEncoder(encoder=encoder)(documents("One.", "Two."))
    for node in nodes:
        assert node.metadata["adapter_id"].startswith("fake-")
        assert node.metadata["adapter_rev"].startswith("s-")
        assert "adapter_status" not in node.metadata
        assert "adapter" not in node.get_content(MetadataMode.LLM)
        assert "adapter" not in node.get_content(MetadataMode.EMBED)
    assert len({node.metadata["adapter_id"] for node in nodes}) == 2


def test_running_again_encodes_only_what_is_new():
    encoder = CountingEncoder()
    splitter = SentenceSplitter(chunk_size=40, chunk_overlap=0)  # node ids are new at every run
    pipeline = IngestionPipeline(
        transformations=[splitter, AdapterEncoder(encoder=encoder)], disable_cache=True
    )
    text = " ".join(f"This is sentence number {i} of them." for i in range(30))
    first = pipeline.run(documents=documents(text))
    assert encoder.n_encoded == len(first) > 2
    second = pipeline.run(documents=documents(text))
    assert encoder.n_encoded == len(first)
    assert [n.metadata["adapter_id"] for n in first] == [n.metadata["adapter_id"] for n in second]
    pipeline.run(documents=documents(text, "Another."))
    assert encoder.n_encoded == len(first) + 1


def test_the_pipelines_cache_knows_one_encoder_from_another():
    cache = IngestionCache()
    first, other = CountingEncoder("s"), CountingEncoder("t")
    for encoder in (first, first, other):
        pipeline = IngestionPipeline(transformations=[AdapterEncoder(encoder=encoder)], cache=cache)
        (node,) = pipeline.run(documents=documents("One."))
        assert node.metadata["adapter_rev"].startswith(encoder.settings)
    assert (first.n_encoded, other.n_encoded) == (1, 1)


def test_equal_texts_share_an_adapter():
    encoder = CountingEncoder()
    nodes = AdapterEncoder(encoder=encoder)([Document(text="One."), Document(text="One.")])
    assert encoder.n_encoded == 1
    assert nodes[0].metadata["adapter_id"] == nodes[1].metadata["adapter_id"]


def test_a_lasting_passage_id_replaces_the_adapter_of_a_changed_text():
    encoder = CountingEncoder()
    transform = AdapterEncoder(encoder=encoder, passage_id=lambda node: node.node_id)
    (old,) = transform([Document(text="One.", doc_id="d")])
    (new,) = transform([Document(text="Changed.", doc_id="d")])
    assert old.metadata["adapter_id"] == new.metadata["adapter_id"]
    assert old.metadata["adapter_rev"] != new.metadata["adapter_rev"]
    assert len(encoder.library) == 1


def test_two_texts_under_one_passage_id_are_refused():
    transform = AdapterEncoder(encoder=CountingEncoder(), passage_id=lambda node: "same")
    with pytest.raises(DocumentError, match="one text for each passage id"):
        transform(documents("One.", "Two."))


async def test_async_pipelines_leave_the_event_loop_free():
    transform = AdapterEncoder(encoder=CountingEncoder(seconds=0.1))
    pipeline = IngestionPipeline(transformations=[transform])
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    nodes = await pipeline.arun(documents=documents("One."))
    ticking.cancel()
    assert ticks >= 5
    assert nodes[0].metadata["adapter_id"]


def test_it_does_not_go_to_another_process():
    pipeline = IngestionPipeline(
        transformations=[AdapterEncoder(encoder=CountingEncoder())], disable_cache=True
    )
    with pytest.raises(DocumentError, match="stay in its process"):
        pipeline.run(documents=documents("One.", "Two."), num_workers=2)


@pytest.fixture
def tiny_engine(tmp_path):
    """lag-tiny with an empty library of its own, and the library open for writing."""
    path = tmp_path / "library"
    with (
        AdapterLibrary.create(path, base_model=tiny.model_path(), base_name="lag-tiny") as library,
        LAGEngine.from_pretrained("lag-tiny", library=path) as engine,
    ):
        yield SimpleNamespace(engine=engine, library=library)


def test_prag_encodes_on_the_answering_model_and_its_adapters_are_current(tiny_engine, make_llm):
    settings = PRAGSettings(epochs=1, learning_rate=0.01)
    encoder = PRAG.from_engine(
        tiny_engine.engine, tiny_engine.library, settings=settings, progress=False
    )
    transform = AdapterEncoder(encoder=encoder)
    sources = [Document(text=d.text, doc_id=d.id) for d in tiny.documents()[:2]]
    nodes = IngestionPipeline(transformations=[transform]).run(documents=sources)
    names = [node.metadata["adapter_id"] for node in nodes]
    assert {info.name for info in tiny_engine.library.list()} == set(names)
    generation = tiny_engine.library.generation
    transform(sources)
    assert tiny_engine.library.generation == generation
    llm = make_llm(tiny_engine.engine, name="tiny-encoded", max_tokens=4)
    answer = llm.complete("Who?", mode="prag", adapters=names)
    assert [a["adapter"] for a in answer.raw["lag_routing"]["slots"]["knowledge"]["adapters"]]
    found = [NodeWithScore(node=node, score=1.0) for node in nodes]
    checked = AdapterPostprocessor(library=tiny_engine.engine.library).postprocess_nodes(found)
    assert [n.metadata["adapter_status"] for n in checked] == ["current", "current"]
