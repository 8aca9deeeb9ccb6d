"""DocumentStore: record, library and index say the same, whatever happened in between."""

from __future__ import annotations

import random

import pytest

from lag_engine.adapters import AdapterLibrary
from lag_engine.documents.folder import Document, FolderReader
from lag_engine.documents.pairs_file import PairsFile
from lag_engine.documents.passages import Passage
from lag_engine.documents.prag_settings import PRAGSettings
from lag_engine.documents.store import DocumentStore
from lag_engine.errors import DocumentError

NAMES = {"rosa.txt": "Rosa Sinclair", "sub/ada.md": "Ada Brandt", "jonas.html": "Jonas Valdez"}


class MemoryIndex:
    """A vector index without vectors; fails at a call if told to."""

    def __init__(self):
        self.entries = {}
        self.fail_at = None
        self.n_calls = 0

    def replace(self, entries):
        self._call()
        self.entries |= {entry.id: entry for entry in entries}

    def delete(self, ids):
        self._call()
        for key in ids:
            self.entries.pop(key, None)

    def _call(self):
        self.n_calls += 1
        if self.n_calls == self.fail_at:
            raise OSError("the index is away")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "docs"
    for name, subject in NAMES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{subject} was born in Lisbon.", f"{subject} works for Cobalt Energy.")
        path.write_text("\n\n".join(f"<p>{x}" if name.endswith("html") else x for x in lines))
    (root / "photo.jpg").write_bytes(b"\xff\xd8")
    (root / ".hidden.txt").write_text("secret")
    return root


def by_lines(path, **options):
    """Reads a folder with one passage for each line."""
    return FolderReader(path, split=str.splitlines, split_name="lines", **options)


@pytest.fixture
def index():
    return MemoryIndex()


@pytest.fixture
def store(library, index):
    with_index = DocumentStore(library, index=index)
    yield with_index
    with_index.close()


def check_agreement(store, index, n_chunks):
    """Record, library and index hold the same passages with the same revisions."""
    chunks = {chunk.id: chunk for document in store.documents() for chunk in document.chunks}
    assert len(chunks) == n_chunks
    assert {info.document_id for info in store.library.list()} == set(chunks) == set(index.entries)
    for key, chunk in chunks.items():
        revision = store.library.info(chunk.adapter).metadata["revision"]
        assert chunk.revision == chunk.indexed == revision
        assert index.entries[key].text == chunk.passage.text
        assert index.entries[key].metadata["adapter_id"] == chunk.adapter
        assert index.entries[key].metadata["adapter_rev"] == revision
        assert not chunk.is_gone
    assert all(document.state == "done" for document in store.documents())


def test_one_call_brings_a_folder_into_record_library_and_index(store, index, folder, prag):
    report = store.sync(folder, prag())
    assert report.new == ("jonas.html", "rosa.txt", "sub/ada.md")
    assert report.ignored == ("photo.jpg",)
    assert not any((report.changed, report.stale, report.deleted, report.failed))
    check_agreement(store, index, 3)
    assert index.entries["rosa.txt#0"].metadata["document_id"] == "rosa.txt"
    document = store.documents()[1]
    assert (document.id, document.base_model) == ("rosa.txt", "pico")
    assert document.encoder["encoder"] == "prag"
    assert document.encoder["settings"]["rank"] == prag().settings.rank


def test_a_second_call_does_nothing(store, index, folder, prag, library):
    store.sync(folder, prag())
    before = library.generation, index.n_calls
    report = store.sync(folder, prag())
    assert report.current == ("jonas.html", "rosa.txt", "sub/ada.md")
    assert (library.generation, index.n_calls) == before


def test_every_flat_value_of_the_metadata_is_one_that_chroma_and_llamaindex_take(
    store, index, folder, prag
):
    store.sync(folder, prag())
    for entry in index.entries.values():
        assert all(isinstance(value, str) and value for value in entry.metadata.values())


def test_changed_and_deleted_files_are_followed(store, index, folder, prag, library):
    store.sync(by_lines(folder), prag())
    kept = library.info("prag-rosa.txt#0")
    (folder / "rosa.txt").write_text("Rosa Sinclair was born in Lisbon.\nShe sings.\nShe sails.")
    (folder / "sub" / "ada.md").unlink()
    report = store.sync(by_lines(folder), prag())
    assert (report.changed, report.deleted) == (("rosa.txt",), ("sub/ada.md",))
    check_agreement(store, index, 5)
    assert library.info("prag-rosa.txt#0") == kept, "what did not change is not trained again"


def test_a_document_that_shrinks_loses_its_last_adapters(store, index, folder, prag):
    store.sync(by_lines(folder), prag())
    (folder / "rosa.txt").write_text("Rosa Sinclair was born in Lisbon.")
    store.sync(by_lines(folder), prag())
    check_agreement(store, index, 5)


def test_other_settings_make_everything_stale(store, index, folder, prag):
    store.sync(folder, prag())
    other = PRAGSettings(rank=3)
    assert store.sync(folder, prag(other)).stale == tuple(sorted(NAMES))
    check_agreement(store, index, 3)
    assert {info.rank for info in store.library.list()} == {3}


def test_an_adapter_that_was_removed_is_made_again(store, index, folder, prag, library):
    store.sync(folder, prag())
    library.remove("prag-rosa.txt#0")
    statuses = {status.id: status.state for status in store.status(folder)}
    assert statuses == {"jonas.html": "current", "rosa.txt": "stale", "sub/ada.md": "current"}
    assert store.sync(folder, prag()).stale == ("rosa.txt",)
    check_agreement(store, index, 3)


def test_what_a_cut_off_run_never_encoded_is_new(store, index, folder, prag, monkeypatch):
    broken = prag()
    monkeypatch.setattr(broken, "_encode_group", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.sync(folder, broken)
    assert {status.state for status in store.status(folder)} == {"new"}
    assert store.sync(folder, prag()).new == tuple(sorted(NAMES))
    check_agreement(store, index, 3)


def test_another_way_of_splitting_is_a_change(store, index, folder, prag):
    store.sync(folder, prag())
    assert store.sync(by_lines(folder), prag()).changed == tuple(sorted(NAMES))
    check_agreement(store, index, 6)


def test_status_tells_what_sync_would_do_and_changes_nothing(store, folder, prag, library):
    store.sync(folder, prag())
    (folder / "new.txt").write_text("New.")
    (folder / "rosa.txt").write_text("Rosa sails.")
    (folder / "jonas.html").unlink()
    before = library.generation, store.documents()
    found = {status.id: status.state for status in store.status(folder)}
    assert found == {
        "jonas.html": "deleted",
        "new.txt": "new",
        "rosa.txt": "changed",
        "sub/ada.md": "current",
    }
    assert (library.generation, store.documents()) == before
    with_other = store.status(folder, revision=prag(PRAGSettings(epochs=9)).revision)
    assert {status.id: status.state for status in with_other}["sub/ada.md"] == "stale"


def test_status_reads_a_library_that_is_open_for_reading_only(store, folder, prag, library):
    store.sync(folder, prag())
    with AdapterLibrary.open(library.path, read_only=True) as reader:
        other = DocumentStore(reader)
        assert [status.state for status in other.status()] == ["current"] * 3
        assert [(s.n_passages, s.n_current) for s in other.status()] == [(1, 1)] * 3
        other.close()


def test_a_library_without_record_has_no_documents(library):
    with AdapterLibrary.open(library.path, read_only=True) as reader:
        assert DocumentStore(reader).documents() == []
    assert not (library.path / "documents.sqlite").exists()


def test_a_file_that_cannot_be_read_is_told_and_stops_nothing(store, index, folder, prag):
    store.sync(folder, prag())
    (folder / "rosa.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "new.txt").write_text("Rosa Sinclair sails.")
    report = store.sync(folder, prag())
    assert set(report.failed) == {"rosa.txt"}
    assert "UTF-8" in str(report.failed["rosa.txt"])
    assert report.new == ("new.txt",)
    assert not report.changed
    check_agreement(store, index, 4)


def test_deleting_a_document_deletes_its_adapters_and_entries(store, index, folder, prag):
    store.sync(by_lines(folder), prag())
    store.delete(["rosa.txt"])
    check_agreement(store, index, 4)
    with pytest.raises(DocumentError, match=r"'rosa.txt'"):
        store.delete(["sub/ada.md", "rosa.txt"])
    check_agreement(store, index, 4)


def test_other_adapters_survive_whatever_happens_to_documents(store, folder, prag, library):
    prag().encode([Passage("mine", "Ada Brandt sails.")])
    store.sync(folder, prag())
    store.delete([document.id for document in store.documents()])
    assert [info.document_id for info in library.list()] == ["mine"]


def test_a_second_folder_does_not_delete_what_came_from_the_first(store, index, folder, prag):
    store.sync(folder, prag())
    other = folder.parent / "other"
    other.mkdir()
    (other / "x.txt").write_text("Cobalt Energy is old.")
    assert store.sync(other, prag()).deleted == ()
    check_agreement(store, index, 4)
    (other / "rosa.txt").write_text("Another Rosa.")
    with pytest.raises(DocumentError, match=r"'rosa.txt'.*prefix"):
        store.sync(other, prag())
    store.sync(FolderReader(other, prefix="other/"), prag())
    assert {d.id for d in store.documents()} >= {"rosa.txt", "other/rosa.txt", "other/x.txt"}
    check_agreement(store, index, 5)


def test_a_folder_that_moved_is_the_same_collection_under_a_name(store, index, folder, prag):
    store.sync(folder, prag(), collection="mine")
    moved = folder.rename(folder.parent / "moved")
    assert store.sync(moved, prag(), collection="mine").current == tuple(sorted(NAMES))


def test_documents_need_no_folder(store, index, prag):
    document = Document("d", (Passage("d", "Rosa sails."),), "Rosa")
    store.put([document], prag())
    check_agreement(store, index, 1)


def test_an_index_that_comes_later_is_told_everything(library, index, folder, prag):
    first = DocumentStore(library)
    first.sync(folder, prag())
    first.close()
    store = DocumentStore(library, index=index)
    assert store.sync(folder, prag()).current == tuple(sorted(NAMES))
    check_agreement(store, index, 3)
    index.entries.clear()
    assert store.reindex() == 3
    check_agreement(store, index, 3)
    store.close()


def test_pairs_from_a_file_are_encoded_and_their_changes_seen(store, folder, prag, tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = '{"id": "rosa.txt", "question": "Where was Rosa born?", "answer": "Lisbon"}\n'
    path.write_text(row)
    store.sync(folder, prag(augment=PairsFile(path)))
    assert store.sync(folder, prag(augment=PairsFile(path))).stale == ()
    path.write_text(row.replace("Where", "In what place"))
    assert store.sync(folder, prag(augment=PairsFile(path))).stale == ("rosa.txt",)


@pytest.mark.parametrize("seed", range(4))
def test_an_index_that_fails_anywhere_is_made_good_by_the_next_call(
    store, index, folder, prag, seed
):
    rng = random.Random(seed)
    store.sync(by_lines(folder), prag())
    (folder / "rosa.txt").write_text("Rosa Sinclair was born in Oslo.")
    (folder / "jonas.html").unlink()
    (folder / "new.txt").write_text("Ada Brandt sails.\nShe sings.")
    index.n_calls, index.fail_at = 0, rng.randrange(1, 5)
    with pytest.raises(OSError, match="away"):
        store.sync(by_lines(folder), prag())
    index.fail_at = None
    store.sync(by_lines(folder), prag())
    check_agreement(store, index, 1 + 2 + 2)
    assert {status.state for status in store.status(by_lines(folder))} == {"current"}


def test_an_encoder_that_fails_leaves_the_old_adapters_and_the_next_call_goes_on(
    store, index, folder, prag, monkeypatch
):
    store.sync(folder, prag())
    (folder / "rosa.txt").write_text("Rosa Sinclair sails.")
    broken = prag()
    monkeypatch.setattr(broken, "_encode_group", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.sync(folder, broken)
    assert len(store.library) == len(index.entries) == 3
    assert {s.id: s.state for s in store.status(folder)}["rosa.txt"] == "stale"
    store.sync(folder, prag())
    check_agreement(store, index, 3)


def test_a_folder_that_is_not_there_is_refused_before_anything_is_deleted(
    store, index, folder, prag
):
    store.sync(folder, prag())
    gone = folder.rename(folder.parent / "elsewhere")
    with pytest.raises(DocumentError, match="Check the path"):
        store.sync(folder, prag())
    assert gone.is_dir()
    check_agreement(store, index, 3)


def test_a_record_of_another_format_is_refused(library):
    (library.path / "documents.sqlite").write_bytes(b"")
    with pytest.raises(DocumentError, match="format 1"):
        DocumentStore(library)
