"""One connection: uvicorn's protocol, for clients that connect and then say nothing."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.auto import AutoHTTPProtocol

IDLE_SECONDS = 20


class Impatient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Closes a connection on which the head of a first request has not come whole in `IDLE_SECONDS`; uvicorn
    itself waits for it without end, so that a few silent clients would keep everybody else out."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._first = self.loop.call_later(IDLE_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._first.cancel()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()
