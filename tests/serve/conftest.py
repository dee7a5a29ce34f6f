from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("psutil")
sys.path.append(str(Path(__file__).parents[1] / "adapt"))

from families import constants, made_profile
from fastapi.testclient import TestClient

from plisse.adapt.elastic import Elastic
from plisse.adapt.governed import Governed
from plisse.adapt.governor import Governor
from plisse.adapt.policies import Deadline
from plisse.adapt.signals import Sensors
from plisse.adapt.watch import Watch
from plisse.serve.app import build_app
from plisse.serve.limits import Limits
from plisse.serve.metrics import Metrics
from plisse.serve.parsing import Form
from plisse.serve.run import LOOPBACK
from plisse.serve.service import Service
from plisse.serve.worker import Worker


def made_service(
    net: Elastic | None = None, *, limits: Limits | None = None, deadline: float | None = None, **given: Any
) -> Service:
    """A service over three constant networks and a device that is always half busy."""
    governor = Governor(made_profile(), (Deadline(),), **given)
    watch = Watch(Sensors({"load": lambda: {"cpu": 0.5, "others": 0.25}}))
    run = Governed(net or constants(), governor, watch.latest)
    worker = Worker(run, limits or Limits(), Metrics(), deadline=deadline)
    return Service(worker, watch, Form.of(governor.profile.conditions), "Made <up>", LOOPBACK)


@pytest.fixture
def client() -> Iterator[Callable[..., TestClient]]:
    """Makes clients of made services; the services end with the test."""
    opened: list[TestClient] = []

    def make(**given: Any) -> TestClient:
        app = build_app(made_service(**given))
        opened.append(TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False))
        opened[-1].__enter__()
        return opened[-1]

    yield make
    for one in opened:
        one.__exit__(None, None, None)
