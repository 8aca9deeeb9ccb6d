"""A real server on a free port: hanging up, many clients at once, and the `lag serve` command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest
import uvicorn
from typer.testing import CliRunner

from lag_engine import LAGEngine
from lag_engine.cli import app as lag
from lag_engine.serving import WebServer, create_app

CHAT = "/v1/chat/completions"
BODY = {"model": "pico", "messages": [{"role": "user", "content": "Hi."}]}


@contextmanager
def running(application):
    """Serves on a thread; yields a client of it."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        host, port = listener.getsockname()
        with httpx2.Client(base_url=f"http://{host}:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def server(served):
    with running(create_app(served, served_name="pico")) as client:
        yield client


@pytest.fixture
def steps(served):
    """Grows by one a decoding step; each takes 20 ms, and none ends the answer."""
    taken = []
    ends = [served.tokenizer.eos_token_id, served.model.generation_config.eos_token_id]

    def hook(module, args, output):
        taken.append(1)
        time.sleep(0.02)
        output.logits[..., ends] = -1e9

    handle = served.model.register_forward_hook(hook)
    yield taken
    handle.remove()


def until(condition, *, seconds=5.0):
    ends = time.monotonic() + seconds
    while not condition() and time.monotonic() < ends:
        time.sleep(0.01)
    assert condition()


def metric(client, line):
    return line in client.get("/metrics").text.splitlines()


def assert_that_decoding_stopped(client, steps):
    until(lambda: metric(client, "lag_answers_running 0"))
    assert metric(client, 'lag_answers_total{end="cancelled"} 1')
    taken = len(steps)
    assert taken < 20
    time.sleep(0.1)
    assert len(steps) <= taken + 1  # the step that ran when the client hung up


def test_hanging_up_on_a_stream_frees_the_model(server, steps):
    with server.stream("POST", CHAT, json={**BODY, "stream": True}) as reply:
        next(reply.iter_lines())
    assert_that_decoding_stopped(server, steps)


def test_hanging_up_on_a_whole_answer_frees_the_model(server, steps):
    with pytest.raises(httpx2.ReadTimeout):
        server.post(CHAT, json=BODY, timeout=0.2)
    assert_that_decoding_stopped(server, steps)


def test_the_server_answers_others_while_it_writes(server, steps):
    with server.stream("POST", CHAT, json={**BODY, "stream": True}) as reply:
        lines = reply.iter_lines()  # kept: a dropped iterator closes the reply
        next(lines)
        started = time.monotonic()
        assert server.get("/health").json() == {"status": "ok"}
        assert metric(server, "lag_answers_running 1")
        assert time.monotonic() - started < 0.3


def test_clients_at_once_get_the_answers_they_would_get_alone(server, served):
    models = ["pico", "lag-auto", "pico:qa", "pico:doc-1", "pico@arrow", "pico@rag+lag"]
    bodies = [
        {**BODY, "model": model, "max_tokens": 8, "temperature": 1.2, "seed": seed}
        for seed in range(2)
        for model in models
    ]

    def ask(body):
        return server.post(CHAT, json=body).json()["choices"]

    alone = [ask(body) for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        assert list(pool.map(ask, bodies)) == alone


def test_metrics_count_answers_and_tokens(server):
    usage = server.post(CHAT, json={**BODY, "max_tokens": 4}).json()["usage"]
    assert metric(server, 'lag_answers_total{end="length"} 1')
    assert metric(server, f"lag_prompt_tokens_total {usage['prompt_tokens']}")
    assert metric(server, "lag_completion_tokens_total 4")
    assert server.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.fixture
def signals():
    """Gives the handlers of Ctrl-C and `kill` back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_after_ctrl_c_a_long_answer_is_ended_with_an_error_and_nothing_is_cut(
    on_disk, monkeypatch, capsys
):
    monkeypatch.setattr("lag_engine.serving.web_server.SECONDS_TO_FINISH", 0.1)
    engine = LAGEngine.from_pretrained(on_disk.model)
    engine.model.register_forward_hook(lambda *_: time.sleep(0.05))
    server = WebServer(create_app(engine, served_name="pico"), engine, log_level="warning")
    listener = socket.create_server(("127.0.0.1", 0))

    def ask():
        host, port = listener.getsockname()
        with (
            httpx2.Client(base_url=f"http://{host}:{port}", timeout=20) as client,
            client.stream("POST", CHAT, json={**BODY, "n": 20, "stream": True}) as reply,
        ):
            lines = reply.iter_lines()
            next(lines)
            os.kill(os.getpid(), signal.SIGINT)
            return [line for line in lines if line]

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        server.run(sockets=[listener])
        *_, error, done = asked.result()
    assert "The server is closing" in error
    assert done == "data: [DONE]"
    assert "Traceback" not in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL, "another one ends the process"


@contextmanager
def served_by_command(*arguments):
    """Runs `lag serve` on a free port; yields the process, its welcome and a client."""
    program = "from lag_engine.cli import app; app()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"},
    )
    try:
        welcome = [process.stdout.readline() for _ in range(5)]
        address = welcome[0].split()[-1]
        with httpx2.Client(base_url=address, timeout=20) as client:
            yield process, welcome, client
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_lag_serve_says_what_it_serves_answers_offline_and_ends_with_ctrl_c():
    with served_by_command() as (process, welcome, client):
        assert "lag-tiny" in welcome[1]
        assert "adapters" in welcome[2]
        assert "rag+lag" in welcome[3]
        body = {**BODY, "model": "lag-auto", "max_tokens": 3}
        reply = client.post("chat/completions", json=body)
        assert reply.json()["usage"]["completion_tokens"] <= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert "Stopped." in process.stdout.read()
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_a_second_ctrl_c_ends_lag_serve_at_once_and_without_a_traceback():
    with served_by_command() as (process, _, client):
        body = {**BODY, "model": "lag-auto", "stream": True, "n": 64, "max_tokens": 1000}
        with client.stream("POST", "chat/completions", json=body) as reply:
            next(reply.iter_lines())
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            assert process.wait(2) == -signal.SIGINT
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_the_inspector_and_the_api_live_in_one_application():
    with served_by_command("--inspector") as (_, welcome, client):
        assert welcome[4].startswith("Inspector:")
        page = welcome[4].split()[-1]
        assert "LAG inspector" in client.get(page, follow_redirects=True).text
        assert client.get("models/lag-tiny").json()["id"] == "lag-tiny"
        assert client.get("nothing").json()["error"]["type"] == "invalid_request_error"
        assert client.post("chat/completions", json={"model": "x"}).status_code == 400


def command(*arguments):
    return CliRunner().invoke(lag, ["serve", *map(str, arguments)], env={"COLUMNS": "300"})


def test_a_taken_port_is_told_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = command("--port", taken.getsockname()[1], "--model", "/nowhere")
    assert result.exit_code == 1
    assert "in use" in result.stderr
    assert "another --port" in result.stderr


@pytest.mark.parametrize("arguments", [("--model", "/nowhere"), ("--library", "/nowhere")])
def test_a_wrong_path_is_told(arguments):
    result = command("--port", 0, *arguments)
    assert result.exit_code == 1
    assert "/nowhere" in result.stderr
    assert "Do:" in result.stderr


def test_a_mode_that_needs_more_is_told(on_disk):
    result = command("--port", 0, "--model", on_disk.model, "--mode", "prag")
    assert result.exit_code == 1
    assert "pinned adapters" in result.stderr


def test_missing_packages_are_told():
    code = (
        "import sys; sys.modules['fastapi'] = None\n"
        "import lag_engine.serving as serving\n"
        "try: serving.create_app\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("LagError Expected the packages of the server")
    assert "lag-integrations[serve]" in ran.stdout
