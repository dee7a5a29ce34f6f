"""Listening: a socket of our own, loopback unless told otherwise, and an orderly end."""

from __future__ import annotations

import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from plisse.errors import InputError
from plisse.serve.app import build_app
from plisse.serve.protocol import IDLE_SECONDS, Impatient
from plisse.serve.service import Service

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
GRACE_SECONDS = 10


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`.

    >>> is_loopback("localhost"), is_loopback("127.0.0.5"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(host: str) -> frozenset[str] | None:
    """The names that requests may use: those of this machine where nobody else can reach it, else any."""
    return LOOPBACK | {f"[{host}]" if ":" in host else host} if is_loopback(host) else None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises InputError where that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{host}:{port} ({reason})", expected="an address to listen on", hint="--port 0 takes a free port"
        ) from error


def address(listening: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(service: Service, listening: socket.socket, started: Callable[[], None] = lambda: None) -> None:
    """Answer requests until SIGINT or SIGTERM; running predictions end first. started: called when ready."""
    with _quiet_signals(), listening:
        make_server(service, started).run(sockets=[listening])


def make_server(service: Service, started: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """The server that `serve` runs; its `should_exit` ends it from another thread."""
    config = uvicorn.Config(
        _announced(build_app(service), started),
        http=Impatient,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=2 * service.limits.clients,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        ws="none",
        lifespan="on",
    )
    return uvicorn.Server(config)


def _announced(app: Callable[..., object], started: Callable[[], None]) -> Callable[..., object]:
    """The application; calls `started` once it has started."""

    async def announced(scope: dict[str, object], receive: object, send: Callable[..., object]) -> None:
        async def told(message: dict[str, object]) -> None:
            await send(message)  # type: ignore[misc]
            if message["type"] == "lifespan.startup.complete":
                started()

        await app(scope, receive, told if scope["type"] == "lifespan" else send)  # type: ignore[misc]

    return announced


@contextlib.contextmanager
def _quiet_signals() -> Iterator[None]:
    """uvicorn raises the signal that stopped it again when it has stopped; that is an orderly end here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ignore(number: int, frame: FrameType | None) -> None:
        pass

    before = {number: signal.signal(number, ignore) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
