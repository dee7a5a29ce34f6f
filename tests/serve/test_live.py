"""The service behind a real socket: slow, broken and endless clients, and an orderly end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import made_service
from test_app import waiting

from plisse.serve import protocol
from plisse.serve.limits import Limits
from plisse.serve.run import is_loopback, listen, make_server

BODY = json.dumps({"inputs": [[0, 0, 0, 0]]}).encode()


@contextmanager
def running(**given: Any) -> Iterator[tuple[int, Any]]:
    """A service that listens: its port and its server."""
    with listen("127.0.0.1", 0) as listening:
        started = threading.Event()
        server = make_server(made_service(**given), started.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        assert started.wait(30)
        try:
            yield listening.getsockname()[1], server
        finally:
            server.should_exit = True
            thread.join()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def head(length: int) -> bytes:
    return (
        "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()


def everything(connection: socket.socket) -> str:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts).decode()


def test_a_slow_body_is_a_timeout_and_a_large_one_is_refused_unread() -> None:
    with running(limits=Limits(body_seconds=0.1, body=1000)) as (port, _):
        with connected(port) as slow:
            slow.sendall(head(100) + b'{"inputs"')
            answer = everything(slow)
        assert answer.startswith("HTTP/1.1 408")
        assert "took more than 0.1 s" in answer
        with connected(port) as large:
            large.sendall(head(10**12))
            answer = everything(large)
        assert answer.startswith("HTTP/1.1 413")
        with connected(port) as odd:
            odd.sendall(head(len(BODY)) + BODY)
            assert '"point":"width=1"' in everything(odd)


def test_a_body_somewhat_too_large_is_read_so_that_the_client_hears_why() -> None:
    with running(limits=Limits(body=1_000_000)) as (port, _), connected(port) as large:
        large.sendall(head(7_000_000) + b" " * 7_000_000)
        assert everything(large).startswith("HTTP/1.1 413")


@pytest.mark.parametrize("sent", [b"", b"POST /predict HTTP/1.1\r\nHost: "])
def test_clients_that_never_ask_are_let_go(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "IDLE_SECONDS", 0.2)
    with running(limits=Limits(clients=2)) as (port, _):
        idle = [connected(port) for _ in range(8)]
        for one in idle:
            one.sendall(sent)
        assert [everything(one) for one in idle] == [""] * 8
        with connected(port) as good:
            good.sendall(head(len(BODY)) + BODY)
            assert everything(good).startswith("HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"nonsense\r\n\r\n", head(100) + b'{"inp', b"\x00" * 70_000])
def test_clients_that_break_off_or_talk_nonsense_do_no_harm(sent: bytes) -> None:
    with running() as (port, _):
        for _ in range(5):
            with connected(port) as broken:
                broken.sendall(sent)
        with connected(port) as good:
            good.sendall(head(len(BODY)) + BODY)
            assert everything(good).startswith("HTTP/1.1 200")


def test_the_running_prediction_ends_before_the_service_does() -> None:
    module, net = waiting()
    with running(net=net) as (port, server), connected(port) as client:
        client.sendall(head(len(BODY)) + BODY)
        assert module.entered.wait(10)
        server.should_exit = True
        time.sleep(0.05)
        module.gate.set()
        assert everything(client).startswith("HTTP/1.1 200")


def test_only_loopback_is_loopback() -> None:
    found = [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "example.org")]
    assert found == [True, True, True, False, False, False]


def test_the_dashboard_is_part_of_the_package() -> None:
    import plisse.serve

    folder = Path(plisse.serve.__file__ or "").parent / "dashboard"
    assert sorted(path.name for path in folder.iterdir()) == ["page.html", "script.js", "style.css"]
