"""The HTTP interface: answers, refusals, metrics; nothing here depends on time."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from families import constants, made_profile
from fastapi.testclient import TestClient
from torch import Tensor, nn

from plisse.adapt.elastic import Point, Switching
from plisse.adapt.family import family
from plisse.errors import InputError
from plisse.serve.limits import Limits
from plisse.serve.page import content_policy, page, script
from plisse.serve.parsing import LONGEST_SEQUENCE, Form, question
from plisse.serve.run import address, allowed_hosts, listen

Make = Callable[..., TestClient]
GOOD = {"inputs": [[1.0, 2.0, 3.0, 4.0]]}


def error_of(response: Any) -> dict[str, str]:
    found: dict[str, str] = response.json()["error"]
    assert set(found) == {"message", "came", "expected", "hint"}
    return found


def test_predict_answers_with_outputs_point_and_times(client: Make) -> None:
    found = client().post("/predict", json={"inputs": [[0, 0, 0, 0]] * 3, "deadline_ms": 1e6}).json()
    assert found["outputs"] == [[1.0, 0.0]] * 3
    assert found["classes"] == [0, 0, 0]
    assert (found["point"], found["met"], found["deadline_ms"]) == ("width=1", True, 1e6)
    assert found["total_ms"] >= found["pass_ms"] > 0


def test_a_deadline_that_nothing_meets_runs_the_smallest_and_is_counted(client: Make) -> None:
    http = client()
    found = http.post("/predict", json={**GOOD, "deadline_ms": 1e-6}).json()
    assert (found["point"], found["met"]) == ("width=0.25", False)
    state = http.get("/state").json()
    assert (state["predictions"], state["deadlines"], state["missed"]) == (1, 1, 1)


def test_the_service_has_a_deadline_for_requests_without_one(client: Make) -> None:
    assert client(deadline=1e-9).post("/predict", json=GOOD).json()["met"] is False
    assert client().post("/predict", json=GOOD).json()["met"] is None


def test_a_forced_point_runs_until_it_is_released(client: Make) -> None:
    http = client()
    assert http.post("/predict", json=GOOD).json()["point"] == "width=1"
    assert http.put("/point", json={"point": "width=0.5"}).json()["forced"] == "width=0.5"
    answer = http.post("/predict", json=GOOD).json()
    assert (answer["point"], answer["outputs"][0][0]) == ("width=0.5", 0.5)
    assert http.get("/points").json()["point"] == "width=0.5"
    assert http.delete("/point").json()["forced"] is None
    assert http.put("/point", json={"point": "width=0.50"}).json()["forced"] == "width=0.5"


@pytest.mark.parametrize("body", ['{"point": "width=7"}', '{"point": 3}', "{}", "[]", '{"points": "a"}'])
def test_a_point_that_cannot_be_forced_is_refused(client: Make, body: str) -> None:
    http = client()
    response = http.put("/point", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert error_of(response)["expected"]
    assert http.get("/healthz").json()["forced"] is None


def test_a_point_outside_the_budget_is_a_conflict(client: Make) -> None:
    from plisse.cost.budget import Budget

    response = client(budget=Budget.parse("macs=150k")).put("/point", json={"point": "width=1"})
    assert response.status_code == 409
    assert "macs" in error_of(response)["came"]


BAD: list[tuple[str, int, str]] = [
    ("{", 400, "no JSON"),
    ("", 400, "no JSON"),
    ('{"inputs": [[NaN, 0, 0, 0]]}', 400, "NaN"),
    ('{"inputs": [[-Infinity, 0, 0, 0]]}', 400, "Infinity"),
    ("[" * 100_000, 400, "nested"),
    ('"\\ud800"', 422, "a string in JSON"),
    ("[]", 422, "a list in JSON"),
    ("{}", 422, "without inputs"),
    ('{"inputs": [[1, 2, 3, 4]], "deadline": 3}', 422, "'deadline'"),
    ('{"inputs": [[1, 2, 3]]}', 422, "[1, 3]"),
    ('{"inputs": [1, 2, 3, 4]}', 422, "[4]"),
    ('{"inputs": [[1, 2, 3, 4], [1]]}', 422, "ragged"),
    ('{"inputs": []}', 422, "[0]"),
    ('{"inputs": 3}', 422, "a number in JSON"),
    ('{"inputs": {"a": 3}}', 422, "an object in JSON"),
    ('{"inputs": [["a", "b", "c", "d"]]}', 422, "no float32"),
    ('{"inputs": [[true, true, false, true]]}', 422, "no float32"),
    ('{"inputs": [[null, 1, 2, 3]]}', 422, "no float32"),
    ('{"inputs": [[1e400, 0, 0, 0]]}', 422, "NaN or infinity"),
    ('{"inputs": [[1e39, 0, 0, 0]]}', 422, "NaN or infinity"),
    ('{"inputs": [[1, 2, 3, 4]], "deadline_ms": 0}', 422, "deadline_ms"),
    ('{"inputs": [[1, 2, 3, 4]], "deadline_ms": true}', 422, "deadline_ms"),
    ('{"inputs": [[1, 2, 3, 4]], "deadline_ms": "soon"}', 422, "deadline_ms"),
    ('{"inputs": [[1, 2, 3, 4]], "deadline_ms": 1e999}', 422, "deadline_ms"),
]


@pytest.mark.parametrize(("body", "status", "words"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_bad_bodies_get_clean_errors(client: Make, body: str, status: int, words: str) -> None:
    response = client().post("/predict", content=body, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert words in error_of(response)["came"]


def test_integers_too_large_for_any_tensor_are_refused(client: Make) -> None:
    response = client().post("/predict", json={"inputs": [[10**400, 0, 0, 0]]})
    assert response.status_code == 422
    assert error_of(response)


def test_limits_on_body_batch_and_type(client: Make) -> None:
    http = client(limits=Limits(body=1000, batch=2))
    json_type = {"content-type": "application/json"}
    assert http.post("/predict", content=b" " * 1001, headers=json_type).status_code == 413
    pieces = http.post("/predict", content=iter([b" " * 600] * 2), headers=json_type)
    assert pieces.status_code == 413, "also where the length is not declared"
    many = http.post("/predict", json={"inputs": [[0.0] * 4] * 3})
    assert (many.status_code, error_of(many)["expected"]) == (422, "1 to 2 in one request")
    plain = http.post("/predict", content=json.dumps(GOOD), headers={"content-type": "text/plain"})
    assert (plain.status_code, error_of(plain)["expected"]) == (415, "application/json")
    assert http.post("/predict", json=GOOD).status_code == 200


def test_what_can_be_got_has_a_head(client: Make) -> None:
    http = client()
    for path in ("/", "/points", "/metrics", "/healthz"):
        assert (http.head(path).status_code, http.get(path).status_code) == (200, 200)


def test_unknown_paths_methods_and_queries_are_told(client: Make) -> None:
    http = client()
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/predict", 405), ("DELETE", "/", 405)):
        response = http.request(method, path)
        assert response.status_code == status
        assert "POST /predict" in error_of(response)["expected"]
    for since in ("-1", "x", "²", "1" * 30):
        assert http.get("/state", params={"since": since}).status_code == 422


def test_other_hosts_are_refused(client: Make) -> None:
    response = client().get("/points", headers={"host": "evil.example:8000"})
    assert response.status_code == 403
    assert "evil.example" in error_of(response)["came"]
    assert allowed_hosts("0.0.0.0") is None
    assert "localhost" in (allowed_hosts("127.0.0.1") or ())


class Waiting(nn.Module):
    """Waits for an event in each pass, as a slow network would."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.gate = threading.Event(), threading.Event()

    def __deepcopy__(self, memo: object) -> Waiting:
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.entered.set()
        self.gate.wait(10)
        return x


def waiting() -> tuple[Waiting, Switching]:
    module = Waiting()
    return module, family({Point("width", width): module for width in (0.25, 0.5, 1.0)})


def test_too_many_predictions_are_told_when_to_come_again(client: Make) -> None:
    module, net = waiting()
    http = client(net=net, limits=Limits(waiting=2))
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(http.post, "/predict", json=GOOD) for _ in range(2)]
        assert module.entered.wait(10)
        while http.get("/state").json()["unfinished"] < 2:
            time.sleep(0.01)
        refused = http.post("/predict", json=GOOD)
        assert http.get("/healthz").status_code == 200, "the rest stays responsive"
        module.gate.set()
        assert [future.result().status_code for future in running] == [200, 200]
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "at most 2" in error_of(refused)["expected"]
    assert http.post("/predict", json=GOOD).status_code == 200


def test_too_many_clients_are_told_when_to_come_again(client: Make) -> None:
    module, net = waiting()
    http = client(net=net, limits=Limits(clients=1))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(http.post, "/predict", json=GOOD)
        assert module.entered.wait(10)
        refused = http.get("/healthz")
        module.gate.set()
        assert running.result().status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.headers["x-content-type-options"] == "nosniff"


def test_an_answer_that_takes_too_long_is_a_timeout(client: Make) -> None:
    module, net = waiting()
    http = client(net=net, limits=Limits(seconds=0.05))
    response = http.post("/predict", json=GOOD)
    module.gate.set()
    assert response.status_code == 504
    assert error_of(response)


class Broken(nn.Module):
    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if self.error:
            raise self.error
        return x * float("nan")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (RuntimeError("sizes must match\nmore"), 422, "sizes must match"),
        (KeyError("surprise"), 500, "an error of the service"),
        (None, 500, "NaN"),
    ],
    ids=["shape", "crash", "nan"],
)  # fmt: skip
def test_networks_that_fail_give_clean_errors(
    client: Make, error: Exception | None, status: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = family({Point("width", width): Broken(error) for width in (0.25, 0.5, 1.0)})
    response = client(net=net).post("/predict", json=GOOD)
    assert response.status_code == status
    assert words in error_of(response)["came"]
    assert "surprise" not in response.text
    assert ("surprise" in caplog.text) == (status == 500 and error is not None)


def test_threads_never_get_torn_answers(client: Make) -> None:
    http = client(net=constants())
    labels = [row.point for row in made_profile().rows]
    wrong: list[Any] = []

    def predict(number: int) -> None:
        http.put("/point", json={"point": labels[number % 3]})
        answer = http.post("/predict", json=GOOD).json()
        if answer["outputs"][0] != [float(answer["point"].partition("=")[2]), 0.0]:
            wrong.append(answer)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(predict, range(60)))
    assert wrong == []
    assert len(http.get("/state").json()["recent"]) == 60


def test_state_gives_only_what_is_new(client: Make) -> None:
    http = client()
    for _ in range(3):
        http.post("/predict", json=GOOD)
    state = http.get("/state", params={"since": 2}).json()
    assert [row["number"] for row in state["recent"]] == [3]
    assert state["signals"]["cpu"] == 0.5
    assert set(state["expected"]) == {"width=0.25", "width=0.5", "width=1"}
    assert state["decisions"][0]["point"] == "width=1"


LINE = re.compile(r'[a-z_]+(\{[a-z]+="(\\.|[^"\\])*"\})? (-?[0-9.e+-]+|\+Inf)')


def test_metrics_are_prometheus_text(client: Make) -> None:
    http = client()
    http.post("/predict", json={**GOOD, "deadline_ms": 1e6})
    http.post("/predict", json={"inputs": [[0.0] * 4] * 5, "deadline_ms": 1e-6})
    http.get("/nothing")
    response = http.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = response.text.splitlines()
    assert response.text.endswith("\n")
    values = {}
    for line in lines:
        if not line.startswith("# "):
            assert LINE.fullmatch(line), line
            name, _, value = line.rpartition(" ")
            assert name not in values
            values[name] = float(value)
    families = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {re.sub(r"(_bucket|_sum|_count)?(\{.*)?$", "", name) for name in values} <= families
    assert values['plisse_answers_total{status="200"}'] == 2
    assert values['plisse_answers_total{status="404"}'] == 1
    assert values['plisse_samples_total{point="width=0.25"}'] == 5
    assert values['plisse_deadlines_total{met="false"}'] == 1
    assert values["plisse_latency_seconds_count"] == values['plisse_latency_seconds_bucket{le="+Inf"}'] == 2
    assert values['plisse_point{point="width=0.25"}'] == 1
    assert values["plisse_signal_cpu"] == 0.5
    assert values["plisse_switches_total"] == 1


def test_the_page_is_whole_and_asks_nobody_else(client: Make) -> None:
    response = client().get("/")
    assert "Made &lt;up&gt;" in response.text
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", response.text)
    assert not re.search(r"@import|url\(", response.text)
    assert re.findall(r"https?://[^\"' ]+", response.text) == ["http://www.w3.org/2000/svg"]
    assert response.headers["content-security-policy"] == content_policy()
    assert "unsafe" not in content_policy()
    assert "innerHTML" not in script()
    assert "{{" not in page("{{script}}", 1).replace("{{script}}", "")
    for element in set(re.findall(r'by\("([a-z-]+)"\)|put\("([a-z-]+)"', script())):
        assert f'id="{"".join(element)}"' in response.text


def test_the_example_is_what_predict_takes(client: Make) -> None:
    http = client()
    assert http.post("/predict", json=http.get("/example").json()).status_code == 200


def test_named_inputs_and_sequences() -> None:
    conditions = {"inputs": {name: {"shape": [7], "type": "int64"} for name in ("ids", "mask")}}
    form = Form.of(conditions)
    body = json.dumps({"inputs": {"ids": [[1, 2, 3]], "mask": [[1, 1, 0]]}}).encode()
    inputs = question(body, form, Limits()).inputs
    assert isinstance(inputs, dict)
    assert torch.equal(inputs["ids"], torch.tensor([[1, 2, 3]]))
    wrong: list[dict[str, Any]] = [
        {"ids": [[1]]},
        {"ids": [[1.5]], "mask": [[1]]},
        {"ids": [[1], [1]], "mask": [[1]]},
        {"ids": [[1] * (LONGEST_SEQUENCE + 1)], "mask": [[1]]},
        {"ids": [[]], "mask": [[]]},
    ]
    for given in wrong:
        with pytest.raises(InputError):
            question(json.dumps({"inputs": given}).encode(), form, Limits())
    by_place = Form.of({"inputs": {"0": {"shape": [2], "type": "float32"}}})
    assert isinstance(by_place.example(), tuple)


@pytest.mark.parametrize(
    "conditions",
    [{}, {"inputs": {}}, {"inputs": {"": {"shape": [4]}}}, {"inputs": {"": {"shape": [4], "type": "nope"}}}],
    ids=range(4),
)
def test_profiles_that_do_not_say_what_inputs_look_like_are_refused(conditions: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Form.of(conditions)


@pytest.mark.parametrize("given", [{"body": 0}, {"seconds": float("nan")}, {"waiting": -1}], ids=str)
def test_limits_are_above_zero(given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Limits(**given)


def test_a_taken_port_is_told() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert address(first) == f"http://127.0.0.1:{port}/"
        with pytest.raises(InputError, match="--port 0"):
            listen("127.0.0.1", port)
    with pytest.raises(InputError):
        listen("127.0.0.1", 70_000)
    with pytest.raises(InputError):
        listen("no.such.host.invalid", 0)
