"""GET /v1/models: every name that a request may use, also for very large libraries."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from lag_engine import LAGEngine, LagError, PlanError
from lag_engine.serving import ModelNames, create_app
from lag_engine.serving.schemas import LagExtension

RUNNABLE = [
    *("base", "arrow", "spectr", "lag", "rag", "prag", "polyprag"),
    *("rag+lag", "prag+lag", "polyprag+lag", "rag+prag+lag"),
]


def test_the_list_holds_the_base_the_routed_model_the_modes_and_the_adapters(client):
    models = client.get("/v1/models").json()
    names = [model["id"] for model in models["data"]]
    assert models["object"] == "list"
    assert names[:2] == ["pico", "lag-auto"]
    assert names[2:-5] == [f"pico@{mode}" for mode in [*RUNNABLE, "oracle"]]
    assert names[-5:] == ["pico:qa", "pico:slots", "pico:doc-0", "pico:doc-1", "pico:doc-2"]
    assert {model["object"] for model in models["data"]} == {"model"}


def test_each_listed_model_is_found_and_answers(client, chat):
    for model in client.get("/v1/models").json()["data"]:
        assert client.get(f"/v1/models/{model['id']}").json() == model
        needs = model["lag"].get("needs_adapters")
        assert ("error" in chat(model["id"], max_tokens=1)) == bool(needs), model["id"]
    assert client.get("/v1/models/nobody").status_code == 404
    assert client.get("/v1/models/pico:nobody").json()["error"]["code"] == "model_not_found"


def test_a_base_model_without_a_library_serves_no_adapters(on_disk):
    with LAGEngine.from_pretrained(on_disk.model) as engine:
        client = TestClient(create_app(engine))
        name = on_disk.model.name
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert names == [name, f"{name}@base", f"{name}@rag"]
        body = {"model": "lag-auto", "prompt": "Who?", "max_tokens": 1}
        reply = client.post("/v1/completions", json=body)
        assert reply.status_code == 404
        assert "no library" in reply.json()["error"]["message"]
        reply = client.post(
            "/v1/completions", json=body | {"model": name, "lag": {"adapters": "a"}}
        )
        assert reply.json()["error"]["code"] == "invalid_plan"


def test_an_adapter_that_joins_later_is_served(served, on_disk, chat, tmp_path):
    from lag_engine import AdapterLibrary

    path = tmp_path / "library"
    with AdapterLibrary.create(path, base_model=on_disk.model) as library:
        library.add(on_disk.adapters / "qa")
        with LAGEngine.from_pretrained(on_disk.model, library=path) as engine:
            client = TestClient(create_app(engine, served_name="pico"))
            assert client.get("/v1/models/pico:slots").status_code == 404
            library.add(on_disk.adapters / "slots")
            assert client.get("/v1/models/pico:slots").status_code == 200


def test_ten_thousand_adapters_are_listed_at_once(served):
    info = served.library.info("qa")
    infos = [replace(info, name=f"a{i}") for i in range(10_000)]
    library = SimpleNamespace(list=lambda: infos)
    names = ModelNames(SimpleNamespace(library=library, name="big"))
    started = time.perf_counter()
    assert len(list(names.list())) == 10_000 + 2 + len(RUNNABLE) + 1
    assert time.perf_counter() - started < 1


def test_a_passages_mixture_is_served_and_the_latent_adapters_are_not(on_disk, tmp_path):
    from lag_engine import AdapterLibrary, AdapterSource, MixtureSource

    path = tmp_path / "library"
    with AdapterLibrary.create(path, base_model=on_disk.model) as library:
        latent = AdapterSource(on_disk.adapters / "qa", "latent-0", "latent")
        library.add(on_disk.adapters / "slots")
        library.add_mixtures([], latents=[latent])
        module = library.info("latent-0").modules[0]
        library.add_mixtures([MixtureSource("p0", {module: {"latent-0": 1.0}})])
        with LAGEngine.from_pretrained(on_disk.model, library=path) as engine:
            names = ModelNames(engine, "pico")
            assert [m["id"] for m in names.list()][-2:] == ["pico:slots", "pico:p0"]
            plan = engine.plan("polyprag", adapters=["p0"])
            assert names.plan("pico:p0") == plan
            assert names.plan("pico@polyprag", LagExtension(adapters=["p0"])) == plan
            client = TestClient(create_app(engine, served_name="pico"))
            body = {"model": "pico:p0", "prompt": "Who?", "max_tokens": 1}
            assert client.post("/v1/completions", json=body).status_code == 200


def test_adapters_of_both_kinds_are_pinned_in_the_slots_of_their_kinds(served):
    names = ModelNames(served, "pico")
    plan = names.plan("pico", LagExtension(adapters=["qa", "doc-0"]))
    assert plan.mode == "custom"
    assert (plan.task.names, plan.knowledge.names) == (("qa",), ("doc-0",))
    by_slot = LagExtension(adapters={"task": "qa", "knowledge": {"doc-0": 1.0}})
    assert names.plan("pico", by_slot) == plan
    assert names.plan("pico:doc-0") == served.plan("prag", adapters=["doc-0"])


def test_what_lag_auto_stands_for_can_be_chosen(served):
    assert ModelNames(served, auto_mode="arrow").plan("lag-auto").mode == "arrow"
    with pytest.raises(PlanError, match="pinned adapters"):
        ModelNames(served, auto_mode="prag")
    with pytest.raises(LagError, match="name of its own"):
        ModelNames(served, "lag-auto")
