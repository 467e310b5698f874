"""Starts the server."""

from __future__ import annotations

import errno
import secrets
import socket
import warnings
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI
from nicegui import app as pages
from nicegui import ui

from esper_agents.karn.overwatch.feed import Runs
from esper_agents.karn.overwatch.guard import Guard, is_loopback
from esper_agents.karn.overwatch.page import Page
from esper_agents.karn.reading import RunError, RunLog

WILDCARDS: Final = frozenset({"", "0.0.0.0", "::"})
GOODBYE_S: Final = 1
"""How long open connections may hold up the end."""


def serve(run: Path, *, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Show a run to browsers until the process is ended.

    Reads the run's log, and writes nothing.

    Args:
        run: its folder.
        host: address to listen at. Any but the loopback asks its visitors for a token, which is printed.
        port: port to listen at; 0 takes a free one.

    Raises:
        RunError: the folder holds no run, or the address cannot be listened at.
    """
    runs = Runs(RunLog(run))
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    token = None if is_loopback(host) else secrets.token_urlsafe(24)

    server = FastAPI(openapi_url=None)
    server.add_middleware(Guard, host=host, port=port, token=token)

    @ui.page("/")
    def page() -> None:
        Page(runs)

    pages.on_startup(runs.shown.start)
    ui.run_with(
        server,
        title=f"{runs.shown.name}: Overwatch",
        favicon="🔭",
        dark=None,
        language="en-US",
        tailwind=False,
        binding_refresh_interval=None,
        show_welcome_message=False,
    )
    # at its start NiceGUI looks at every object there is, among them one of torch that complains
    warnings.filterwarnings("ignore", "`torch.distributed.reduce_op` is deprecated", FutureWarning)
    name = socket.gethostname() if host in WILDCARDS else f"[{host}]" if ":" in host else host
    query = "" if token is None else f"?token={token}"
    print(f"Overwatch shows {runs.shown.name} at http://{name}:{port}/{query}", flush=True)
    config = uvicorn.Config(server, log_level="warning", ws="wsproto", timeout_graceful_shutdown=GOODBYE_S)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise RunError(f"there is no port {port}: ports go from 0 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            free = "python -m esper_agents.karn overwatch RUN --port 0"
            raise RunError(f"port {port} is taken: `{free}` takes a free one") from error
        raise RunError(f"cannot listen at {host} port {port}: {error.strerror}") from error
