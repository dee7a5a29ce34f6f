"""The page in a real browser: move the slider by mouse and by key, see the point change, hand it back."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, chromium, opened
from conftest import made_service

from plisse.serve.run import address, listen, make_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine"),
]

POINT = "document.getElementById('point').textContent"
WHO = "document.getElementById('who').textContent"


@pytest.fixture
def url() -> Iterator[str]:
    """A service over three constant networks, listening."""
    listening = listen("127.0.0.1", 0)
    server = make_server(made_service(deadline=1e3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield address(listening)
    server.should_exit = True
    thread.join()
    listening.close()


def test_moving_the_slider_changes_the_point_and_releasing_hands_it_back(url: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with opened(url, tmp_path / "browser") as page:
            await page.size(1200, 1600)
            await page.until("document.getElementById('connection')?.textContent === 'live'")
            assert await predicted(page) == ["width=1", "chosen by the governor"]

            await page.click(*await end_of_slider(page, left=True))
            await page.until(f"{POINT} === 'width=0.25' && {WHO} === 'forced by hand'")
            assert await predicted(page) == ["width=0.25", "forced by hand"]

            await page.press("ArrowRight", 39)
            await page.until(f"{POINT} === 'width=0.5'")
            assert (await predicted(page))[0] == "width=0.5"
            assert (
                await page.run("document.getElementById('slider').getAttribute('aria-valuetext')")
                == "width=0.5"
            )
            assert await page.run("document.querySelector('tr.active th').textContent") == "width=0.5"

            await page.run("document.getElementById('release').click()")
            await page.until(f"{WHO} === 'chosen by the governor'")
            await page.run("document.getElementById('slider').focus()")
            await page.press("Enter", 13)
            await page.until(f"{WHO} === 'forced by hand'")
            await page.run("document.getElementById('send').click()")
            await page.until("document.querySelectorAll('#timeline circle').length > 5")
            await page.run("document.getElementById('send').click()")
            assert page.errors == []
            assert {one.split("/")[2] for one in page.requests if one.startswith("http")} == {
                url.split("/")[2]
            }

    asyncio.run(play())


async def predicted(page: Page) -> list[str]:
    """Ask for a prediction from within the page; the point that ran, and who chose it."""
    body = json.dumps({"inputs": [[0, 0, 0, 0]]})
    options = f"{{method: 'POST', headers: {{'content-type': 'application/json'}}, body: '{body}'}}"
    point = await page.run(f"fetch('predict', {options}).then(r => r.json()).then(a => a.point)")
    await page.until(f"{POINT} === '{point}'")
    return [point, await page.run(WHO)]


async def end_of_slider(page: Page, *, left: bool) -> tuple[float, float]:
    code = "(b => [b.left, b.right, (b.top + b.bottom) / 2])(document.getElementById('slider')"
    low, high, middle = await page.run(f"{code}.getBoundingClientRect())")
    return (low + 6 if left else high - 6), middle
