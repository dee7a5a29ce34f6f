"""In front of every request: how many at once, to which host, and what every answer carries."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from plisse.serve.limits import RefusedError, refusal, told
from plisse.serve.metrics import Metrics
from plisse.serve.service import Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Message, Receive, Send], Awaitable[None]]

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)


class Gate:
    """Wraps an ASGI application. Refuses more requests at once than the limits allow, and names of hosts that
    the service does not have (a page elsewhere may have bound its name to this address); counts answers."""

    def __init__(self, app: Handler, service: Service) -> None:
        self.app, self.service, self._inside = app, service, 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = _marked(send, self.service.metrics)
        refused = self._refused(scope)
        if refused is not None:
            await _answer(refused, send)
            return
        self._inside += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._inside -= 1

    def _refused(self, scope: Message) -> RefusedError | None:
        limit, hosts = self.service.limits.clients, self.service.hosts
        if self._inside >= limit:
            return refusal(503, f"{self._inside} requests at once", f"at most {limit}", retry_after="1")
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        if hosts is not None and _name(host) not in hosts:
            known = ", ".join(sorted(hosts))
            return refusal(403, f"a request for host {host[:80]!r}", f"one of {known}", "plisse serve --host")
        return None


def _marked(send: Send, metrics: Metrics) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            metrics.answered(message["status"])
            message["headers"] = [*message.get("headers", []), *HEADERS]
        await send(message)

    return marked


async def _answer(refused: RefusedError, send: Send) -> None:
    body = json.dumps(told(refused.error)).encode()
    named = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
    headers = [(name.lower().encode(), value.encode()) for name, value in named.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _name(host: str) -> str:
    """A host header without its port.

    >>> _name("localhost:8000"), _name("[::1]:80"), _name("127.0.0.1")
    ('localhost', '[::1]', '127.0.0.1')
    """
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
