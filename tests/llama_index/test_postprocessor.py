from __future__ import annotations

import pytest
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import (
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)

from lag_integrations.llama_index import AdapterPostprocessor, ParametricSynthesizer


def node(name, document=None, **metadata):
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)} if document else {}
    text = TextNode(id_=name, text=f"About {name}.", metadata=metadata, relationships=source)
    return NodeWithScore(node=text, score=0.5)


@pytest.fixture
def library(make_library):
    return make_library(("doc-a", "a", "r1"), ("doc-b", "b", None))


NODES = [
    node("a", title="T"),
    node("chunk-1", document="b"),
    node("c"),
    node("d", adapter_id="doc-d"),
    node("e", adapter_id="doc-a", adapter_rev="r0"),
    node("f", adapter_id="doc-a", adapter_rev="r1"),
]
STATUS = ["current", "current", "none", "missing", "stale", "current"]


async def test_every_node_stays_and_says_whether_its_adapter_can_be_used(library):
    postprocessor = AdapterPostprocessor(library=library)
    for checked in (
        postprocessor.postprocess_nodes(NODES),
        await postprocessor.apostprocess_nodes(NODES),
    ):
        assert [n.node.node_id for n in checked] == [n.node.node_id for n in NODES]
        assert [n.metadata["adapter_status"] for n in checked] == STATUS
        assert checked[1].metadata["adapter_id"] == "doc-b"
        assert checked[1].metadata["adapter_rev"] == "sha-doc-b"
        assert (
            checked[4].metadata["adapter_rev"] == "r0"
        )  # as indexed: checked again it is stale again


def test_the_nodes_it_was_given_are_left_as_they_were(library):
    before = [n.model_dump() for n in NODES]
    AdapterPostprocessor(library=library).postprocess_nodes(NODES)
    assert [n.model_dump() for n in NODES] == before


def test_adapter_metadata_leaks_into_no_prompt_and_no_embedding(library):
    checked = AdapterPostprocessor(library=library).postprocess_nodes(NODES)[0].node
    assert checked.get_content(MetadataMode.LLM) == "title: T\n\nAbout a."
    assert checked.get_content(MetadataMode.EMBED) == "title: T\n\nAbout a."


def test_without_a_library_metadata_is_trusted():
    checked = AdapterPostprocessor().postprocess_nodes(NODES)
    status = [n.metadata["adapter_status"] for n in checked]
    assert status == ["unchecked"] * 6


def test_a_changed_library_is_seen(library, make_library):
    postprocessor = AdapterPostprocessor(library=library)
    assert postprocessor.postprocess_nodes(NODES)[2].metadata["adapter_status"] == "none"
    library.infos += make_library(("doc-c", "c", "r1")).infos
    library.generation += 1
    assert postprocessor.postprocess_nodes(NODES)[2].metadata["adapter_status"] == "current"


def test_a_library_may_be_given_by_its_folder(on_disk):
    checked = AdapterPostprocessor(library=str(on_disk.library)).postprocess_nodes([node("d1")])
    assert checked[0].metadata["adapter_id"] == "doc-1"


def test_it_composes_with_other_postprocessors(library):
    nodes = AdapterPostprocessor(library=library).postprocess_nodes(NODES)
    assert SimilarityPostprocessor(similarity_cutoff=0.1).postprocess_nodes(nodes) == nodes


def test_the_synthesizer_heeds_what_it_wrote(library, make_llm, engine):
    engine.library = library
    synthesizer = ParametricSynthesizer(make_llm(engine, mode="prag"))
    checked = AdapterPostprocessor(library=library).postprocess_nodes([NODES[0]])
    checked[0].metadata["adapter_status"] = "stale"
    response = synthesizer.synthesize("Who?", checked)
    assert response.metadata["lag_documents"]["fallback"] == ["a"]


def test_its_serialised_form_has_no_library(library):
    assert "library" not in AdapterPostprocessor(library=library).to_dict()
