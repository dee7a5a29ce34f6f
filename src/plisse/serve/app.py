"""The HTTP interface: predictions, points, metrics, health, and the page."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from plisse.adapt.elastic import Point
from plisse.core.batch import Inputs
from plisse.errors import BudgetError, InputError, PlisseError
from plisse.serve.gate import Gate
from plisse.serve.limits import Limits, RefusedError, refusal, told
from plisse.serve.page import content_policy, page
from plisse.serve.parsing import fields, parse_json, question
from plisse.serve.service import Service

LOG = logging.getLogger("plisse.serve")

LARGE_BODY = 1 << 16
DRAINED = 8  # times the limit, read and dropped so that the client hears why
JSON_TYPE = "application/json"
STATUSES: tuple[tuple[type[PlisseError], int], ...] = ((InputError, 422), (BudgetError, 409))


def build_app(service: Service) -> Gate:
    """The ASGI application over a service. Sensors and worker start and stop with it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=_life(service))
    app.state.service = service
    for path, answer in {
        "/": _page,
        "/healthz": _health,
        "/points": _points,
        "/state": _state,
        "/example": _example,
        "/metrics": _metrics,
    }.items():
        app.add_api_route(path, answer, methods=["GET", "HEAD"])
    app.add_api_route("/predict", _predict, methods=["POST"])
    app.add_api_route("/point", _force, methods=["PUT", "POST"])
    app.add_api_route("/point", _release, methods=["DELETE"])
    app.add_exception_handler(PlisseError, _failed)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _unknown)
    app.add_exception_handler(Exception, _crashed)
    return Gate(app, service)


def _life(service: Service) -> Any:
    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.watch.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.worker.close)
            service.watch.stop()

    return life


async def _page(request: Request) -> Response:
    service = _service(request)
    words = page(service.title, len(service.profile.rows))
    return HTMLResponse(words, headers={"content-security-policy": content_policy()})


async def _health(request: Request) -> dict[str, Any]:
    service = _service(request)
    return {"status": "ok", **service.running(), "failed_signals": sorted(service.watch.sensors.failed)}


async def _points(request: Request) -> dict[str, Any]:
    return _service(request).points()


async def _state(request: Request) -> dict[str, Any]:
    since = request.query_params.get("since", "0")
    if not since.isascii() or not since.isdigit() or len(since) > 15:
        raise InputError(f"since={since[:40]}", expected="the number of a prediction")
    return _service(request).state(int(since))


async def _example(request: Request) -> dict[str, Any]:
    return {"inputs": _listed(_service(request).example())}


async def _metrics(request: Request) -> Response:
    words = _service(request).prometheus()
    return PlainTextResponse(words, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _predict(request: Request) -> dict[str, Any]:
    arrived = time.monotonic()
    service = _service(request)
    body = await _body(request, service.limits)
    if len(body) > LARGE_BODY:
        asked = await asyncio.to_thread(question, body, service.form, service.limits)
    else:
        asked = question(body, service.form, service.limits)
    answer, served = await service.worker.predict(asked, arrived)
    outputs = answer.outputs
    return {
        "outputs": outputs.tolist(),
        "classes": outputs.argmax(-1).tolist() if outputs.dim() == 2 else None,
        "point": answer.point,
        "pass_ms": 1e3 * answer.seconds,
        "total_ms": 1e3 * served.seconds,
        "deadline_ms": None if served.deadline is None else 1e3 * served.deadline,
        "met": None if served.deadline is None else not served.missed,
    }


async def _force(request: Request) -> dict[str, Any]:
    service = _service(request)
    hint = '{"point": "' + service.profile.rows[0].point + '"}'
    found = fields(parse_json(await _body(request, service.limits)), ("point",), hint)
    if not isinstance(found.get("point"), str):
        raise InputError("no point", expected="the label of a point", hint=hint)
    service.governor.force(_label(found["point"], service))
    return service.running()


def _label(words: str, service: Service) -> str:
    """The label of the point that `words` name: "width=0.50" is that of "width=0.5"."""
    if any(row.point == words for row in service.profile.rows):
        return words
    try:
        return str(Point.parse(words))
    except InputError:
        return words  # the governor tells which points there are


async def _release(request: Request) -> dict[str, Any]:
    service = _service(request)
    service.governor.release()
    return service.running()


async def _body(request: Request, limits: Limits) -> bytes:
    """The whole body. Raises RefusedError: 415 for what is no JSON, 413 for too much, 408 for too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise refusal(415, f"content type {kind[:80]!r}", JSON_TYPE)
    declared = request.headers.get("content-length", "0")
    too_large = refusal(413, "a body that is too large", f"at most {limits.body} bytes", connection="close")
    announced = int(declared[:18]) if declared.isdigit() else 0
    if announced > DRAINED * limits.body:
        raise too_large
    parts, length = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                length += len(part)
                if length > DRAINED * limits.body:
                    break
                if announced <= limits.body and length <= limits.body:
                    parts.append(part)
    except TimeoutError as error:
        words = f"a body that took more than {limits.body_seconds:g} s"
        raise refusal(408, words, "a faster one", connection="close") from error
    except ClientDisconnect as error:
        raise refusal(400, "a body that broke off", "a whole one") from error
    if max(announced, length) > limits.body:  # said only now: clients that still send would not read it
        raise too_large
    return b"".join(parts)


async def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, PlisseError)
    status = next((code for kind, code in STATUSES if isinstance(error, kind)), 500)
    return JSONResponse(told(error), status)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse(told(error.error), error.status, headers=dict(error.headers))


async def _unknown(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    came = f"{request.method} {request.url.path[:80]}"
    known = "GET / /healthz /points /state /example /metrics, POST /predict, PUT or DELETE /point"
    found = PlisseError(came, expected=known if error.status_code in (404, 405) else str(error.detail))
    return JSONResponse(told(found), error.status_code, headers=error.headers)


async def _crashed(request: Request, error: Exception) -> Response:
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse(told(PlisseError("an error of the service", hint="see its log")), 500)


def _service(request: Request) -> Service:
    found = request.app.state.service
    assert isinstance(found, Service)
    return found


def _listed(inputs: Inputs) -> Any:
    """Inputs as JSON lists."""
    if isinstance(inputs, dict):
        return {name: tensor.tolist() for name, tensor in inputs.items()}
    if isinstance(inputs, tuple):
        return {str(place): tensor.tolist() for place, tensor in enumerate(inputs)}
    return inputs.tolist()
