"""`lag serve`: a model and its library for every client that speaks OpenAI's API."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lag_engine.cli.console import err, out
from lag_engine.cli.engine_options import FactorCache, n_cache_bytes
from lag_engine.errors import LagError

if TYPE_CHECKING:
    from lag_engine.model.engine import LAGEngine
    from lag_engine.serving import ModelNames

LogLevel = Literal["critical", "error", "warning", "info", "debug"]


def serve(
    model: Annotated[
        str, typer.Option(help="'lag-tiny', a model folder or a hub id.")
    ] = "lag-tiny",
    library: Annotated[
        Path | None, typer.Option(help="The adapter library; lag-tiny brings its own.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    served_name: Annotated[
        str | None, typer.Option(help="What clients call the base model.")
    ] = None,
    mode: Annotated[str, typer.Option(help="What 'lag-auto' stands for.")] = "lag",
    trace: Annotated[
        Literal["none", "summary", "full"], typer.Option(help="Routing told in each reply.")
    ] = "summary",
    device: Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda:0', ...")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="Of the weights.")
    ] = "auto",
    quantization: Annotated[
        Literal["4bit", "8bit"] | None, typer.Option(help="Through bitsandbytes.")
    ] = None,
    factor_cache_mb: FactorCache = None,
    inspector: Annotated[
        bool, typer.Option("--inspector", help="Also serve a page that shows the routing.")
    ] = False,
    log_level: Annotated[LogLevel, typer.Option(help="Of the web server.")] = "warning",
    quiet: Annotated[bool, typer.Option(help="No progress bars and no welcome.")] = False,
) -> None:
    """Serve a model over HTTP, as OpenAI's clients speak."""
    listener = _listen(host, port)
    with listener:
        from lag_engine.model.engine import LAGEngine
        from lag_engine.serving import ModelNames, WebServer, create_app

        if quiet:
            _hide_progress()
        with LAGEngine.from_pretrained(
            model,
            library=library,
            device=device,
            dtype=dtype,
            quantization=quantization,
            factor_cache_bytes=n_cache_bytes(factor_cache_mb),
        ) as engine:
            app = create_app(engine, served_name=served_name, auto_mode=mode, trace=trace)
            names = ModelNames(engine, served_name, auto_mode=mode)
            if inspector:
                from lag_engine.serving import mount_inspector

                app = mount_inspector(app, engine, names)
            if not quiet:
                _welcome(engine, names, _address(listener), has_inspector=inspector)
            WebServer(app, engine, log_level=log_level).run(sockets=[listener])
    err.print()  # after the terminal's ^C
    if not quiet:
        out.print("Stopped.")


def _listen(host: str, port: int) -> socket.socket:
    """Takes the port before anything slow is done.

    Raises:
        LagError: the host is not this machine's, or the port is taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise LagError(
            f"Expected to listen at {host}:{port}",
            f"found that it cannot be: {error.strerror or error}",
            "choose another --port (0 takes a free one), or another --host",
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _welcome(engine: LAGEngine, names: ModelNames, address: str, *, has_inspector: bool) -> None:
    library = engine.library
    held = "none" if library is None else f"{len(library)} adapters, {library.path}"
    lines = {
        "Listening": f"{address}/v1",
        "Model": engine.name if engine.name == names.base else f"{names.base} ({engine.name})",
        "Library": held,
        "Modes": ", ".join(names.modes),
    }
    if has_inspector:
        lines["Inspector"] = f"{address}/inspector"
    for label, text in lines.items():
        out.print(f"{label + ':':<11}{text}", markup=False, highlight=False, soft_wrap=True)
    if library is not None:
        text = f"Ask for 'lag-auto' ({names.auto_mode}), '{names.base}', '{names.base}@MODE' or "
        text += f"'{names.base}:ADAPTER'. Ctrl-C ends."
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def _hide_progress() -> None:
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bars()
    disable_progress_bar()
