"""Bad input over HTTP: the exact problem, and nothing left behind."""

# ruff: noqa: E501 - one case a line reads as the table it is

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tests.app.appkit import OCTETS, assert_problem, model_bytes, npz_bytes, upload
from tests.app.conftest import Served


class Case(NamedTuple):
    name: str
    body: Any  # JSON fields over a good request; bytes are sent as they are
    status: int
    slug: str
    pointers: tuple[str, ...]


GONE = object()  # takes the field out of the good request
INVALID = "invalid-request"
SECRET = "whsec_" + "c2VjcmV0" * 4


def deep(levels: int) -> bytes:
    return b'{"labels": ' + b'{"a": ' * levels + b"1" + b"}" * levels + b"}"


JSON_CASES = [
    Case("threshold zero", {"threshold": 0}, 422, INVALID, ("/threshold",)),
    Case("threshold negative", {"threshold": -0.5}, 422, INVALID, ("/threshold",)),
    Case("threshold above one", {"threshold": 1.01}, 422, INVALID, ("/threshold",)),
    Case("threshold text", {"threshold": "1_0"}, 422, INVALID, ("/threshold",)),
    Case("threshold numeric text", {"threshold": "0.9"}, 422, INVALID, ("/threshold",)),
    Case("threshold true", {"threshold": True}, 422, INVALID, ("/threshold",)),
    Case("threshold object", {"threshold": {}}, 422, INVALID, ("/threshold",)),
    Case("threshold missing", {"threshold": GONE}, 422, INVALID, ("/threshold",)),
    Case("threshold list with a bad one", {"threshold": [0.5, 2]}, 422, INVALID, ("/threshold/1",)),
    Case("threshold nan literal", b'{"model": "a", "threshold": NaN}', 422, INVALID, ("",)),
    Case("threshold infinity literal", b'{"threshold": -Infinity}', 422, INVALID, ("",)),
    Case("threshold 1e400", b'{"model": "a", "threshold": 1e400}', 422, INVALID, ("",)),
    Case("huge integer", b'{"threshold": ' + b"9" * 5000 + b"}", 422, INVALID, ("",)),
    Case("duplicate key", b'{"threshold": 0.5, "threshold": 0.9}', 422, INVALID, ("",)),
    Case("nested too deep", deep(40), 422, INVALID, ("",)),
    Case("nested beyond the parser", b"[" * 15_000, 422, INVALID, ("",)),
    Case("not JSON", b'{"threshold": 0.9', 422, INVALID, ("",)),
    Case("empty body", b"", 422, INVALID, ("",)),
    Case("an array", b"[]", 422, INVALID, ("",)),
    Case("not UTF-8", b'{"labels": {"a": "\xff"}}', 422, INVALID, ("",)),
    Case("lone surrogate", b'{"labels": {"a": "\\ud800"}}', 422, INVALID, ("/labels/a",)),
    Case("null character", b'{"labels": {"a": "\\u0000"}}', 422, INVALID, ("/labels/a",)),
    Case("unknown field", {"treshold": 0.5}, 422, INVALID, ("/treshold",)),
    Case("unknown field escaped", {"a/b~c": 0.5}, 422, INVALID, ("/a~1b~0c",)),
    Case("unknown rule", {"rule": "entropie"}, 422, INVALID, ("/rule",)),
    Case("rule without its field", {"rule": "budget", "threshold": GONE}, 422, INVALID, ("/budget",)),
    Case("field of another rule", {"budget": {"bytes": 0.5}}, 422, INVALID, ("/budget",)),
    Case("budget of two", {"budget": {"bytes": 0.5, "flops": 0.5}}, 422, INVALID, ("/budget",)),
    Case("model missing", {"model": GONE}, 422, INVALID, ("/model",)),
    Case("model null", {"model": None}, 422, INVALID, ("/model",)),
    Case("model no id", {"model": "../../etc/passwd"}, 422, INVALID, ("/model",)),
    Case("model unknown", {"model": "0" * 32}, 422, INVALID, ("/model",)),
    Case("shard unknown", {"model": ["0" * 32]}, 422, INVALID, ("/model/0",)),
    Case("layer without match", {"layers": [{"keep_dense": True}]}, 422, INVALID, ("/layers/0/match",)),
    Case("pattern without a match", {"layers": [{"match": "*.nope"}]}, 422, INVALID, ("/layers/0/match",)),
    Case("rank not whole", {"layers": [{"match": "*", "rank": 1.5}]}, 422, INVALID, ("/layers/0/rank",)),
    Case("label not text", {"labels": {"run": 42}}, 422, INVALID, ("/labels/run",)),
    Case("label key", {"labels": {"a b": "x"}}, 422, INVALID, ("/labels/a b",)),
    Case("batch size zero", {"evaluation": {"validation": "a", "batch_size": 0}}, 422, INVALID, ("/evaluation/batch_size",)),
    Case("validation missing", {"evaluation": {}}, 422, INVALID, ("/evaluation/validation",)),
    Case("aware by an onnx model", {"aware": "inputs", "evaluation": {"validation": "a", "architecture": {"kind": "onnx"}}}, 422, INVALID, ("/aware",)),
    Case("onnx model of shards", {"model": ["a", "b"], "evaluation": {"validation": "a", "architecture": {"kind": "onnx"}}}, 422, INVALID, ("/model",)),
    Case("onnx model of another upload", {"evaluation": {"validation": "a", "architecture": {"kind": "onnx", "template": "b"}}}, 422, INVALID, ("/evaluation",)),
    Case("template missing", {"evaluation": {"validation": "a", "architecture": {"kind": "template"}}}, 422, INVALID, ("/evaluation/architecture/template",)),
    Case("template for a chain", {"evaluation": {"validation": "a", "architecture": {"template": "b"}}}, 422, INVALID, ("/evaluation/architecture/template",)),
    Case("factory without a name", {"evaluation": {"validation": "a", "architecture": {"kind": "factory"}}}, 422, INVALID, ("/evaluation/architecture/name",)),
    Case("speed-up below 1", {"min_speedup": 0.5}, 422, INVALID, ("/min_speedup",)),
    Case("validation unknown", {"evaluation": {"validation": "nope"}}, 422, INVALID, ("/evaluation/validation",)),
    Case("webhook, plain http", {"webhook": {"url": "http://a.example", "secret": SECRET}}, 422, INVALID, ("/webhook/url",)),
    Case("webhook, loopback", {"webhook": {"url": "https://127.1:8443/", "secret": SECRET}}, 422, INVALID, ("/webhook/url",)),
    Case("webhook, metadata", {"webhook": {"url": "https://169.254.169.254/", "secret": SECRET}}, 422, INVALID, ("/webhook/url",)),
    Case("webhook, password", {"webhook": {"url": "https://u:p@a.example/", "secret": SECRET}}, 422, INVALID, ("/webhook/url",)),
    Case("webhook, port", {"webhook": {"url": "https://a.example:25/", "secret": SECRET}}, 422, INVALID, ("/webhook/url",)),
    Case("webhook, short secret", {"webhook": {"url": "https://a.example/", "secret": "whsec_YQ=="}}, 422, INVALID, ("/webhook/secret",)),
    Case("webhook, no base64", {"webhook": {"url": "https://a.example/", "secret": "whsec_=a=a"}}, 422, INVALID, ("/webhook/secret",)),
    Case("webhook, no secret", {"webhook": {"url": "https://a.example/"}}, 422, INVALID, ("/webhook/secret",)),
    Case("aware without samples", {"aware": "inputs"}, 422, INVALID, ("/aware",)),
    Case("statistics without aware", {"statistics": "a"}, 422, INVALID, ("/statistics",)),
    Case("calibration without aware", {"evaluation": {"validation": "a", "calibration": "b"}}, 422, INVALID, ("/evaluation",)),
    Case("refit without aware", {"refit": True}, 422, INVALID, ("/refit",)),
    Case("sensitivity of one side", {"aware": "inputs", "sensitivity": "softmax", "evaluation": {"validation": "a"}}, 422, INVALID, ("/sensitivity",)),
    Case("sensitivity with statistics", {"aware": "two_sided", "sensitivity": "softmax", "statistics": "s"}, 422, INVALID, ("/sensitivity",)),
    Case("unknown sensitivity", {"aware": "two_sided", "sensitivity": "sigmoid", "evaluation": {"validation": "a"}}, 422, INVALID, ("/sensitivity",)),
    Case("refit with the caller's statistics", {"refit": True, "aware": "inputs", "statistics": "s"}, 422, INVALID, ("/refit",)),
    Case("refit by a template", {"refit": True, "aware": "inputs", "evaluation": {"validation": "a", "architecture": {"kind": "template", "template": "b"}}}, 422, INVALID, ("/refit",)),
    Case("refit by an onnx model", {"refit": True, "evaluation": {"validation": "a", "architecture": {"kind": "onnx"}}}, 422, INVALID, ("/refit",)),
    Case("refit with the rule auto", {"rule": "auto", "threshold": None, "refit": True, "aware": "inputs", "evaluation": {"validation": "a", "max_drop": {"accuracy": 0.1}}}, 422, INVALID, ("/refit",)),
    Case("refit that is no boolean", {"refit": 1}, 422, INVALID, ("/refit",)),
    Case("statistics and calibration", {"aware": "inputs", "statistics": "s", "evaluation": {"validation": "a", "calibration": "b"}}, 422, INVALID, ("/evaluation",)),
    Case("auto without a bound", {"rule": "auto", "threshold": GONE, "evaluation": {"validation": "a"}}, 422, INVALID, ("/evaluation",)),
    Case("no thresholds", {"threshold": []}, 422, INVALID, ("/threshold",)),
    Case("budgets with a bad one", {"rule": "budget", "threshold": GONE, "budget": [{"bytes": 0.5}, {"bytes": 2}]}, 422, INVALID, ("/budget/1/bytes",)),
    Case("rule of the whole model for a layer", {"layers": [{"match": "*", "rule": "auto"}]}, 422, INVALID, ("/layers/0/rule",)),
    Case("two faults", {"threshold": 2, "rule": "x"}, 422, INVALID, ("/threshold", "/rule")),
]  # fmt: skip


@pytest.mark.parametrize("case", JSON_CASES, ids=lambda case: case.name)
def test_json_submission(case: Case, shared: Served) -> None:
    uploads = []
    if isinstance(case.body, bytes):
        response = shared.client.post(
            "/v1/jobs", content=case.body, headers={"Content-Type": "application/json"}
        )
    else:
        uploads = [upload(shared.client)]
        good = {"model": uploads[0], "threshold": 0.9}
        body = {k: v for k, v in {**good, **case.body}.items() if v is not GONE}
        response = shared.client.post("/v1/jobs", json=body)
    for upload_id in uploads:
        assert shared.client.delete(f"/v1/uploads/{upload_id}").status_code == 204
    assert_problem(response, case.status, case.slug, *case.pointers)
    assert shared.stored() == []
    assert shared.client.get("/v1/jobs").json()["items"] == []


def form(**parts: Any) -> list[tuple[str, Any]]:
    """Files are pairs (name, bytes); texts are strings."""
    return [(k, v if isinstance(v, tuple) else (None, v)) for k, v in parts.items()]


MODEL = ("m.safetensors", model_bytes())
FORM_CASES = [
    Case("threshold 1_0", form(model=MODEL, threshold="1_0"), 422, INVALID, ("/threshold",)),
    Case("threshold nan", form(model=MODEL, threshold="nan"), 422, INVALID, ("/threshold",)),
    Case("threshold 0", form(model=MODEL, threshold="0"), 422, INVALID, ("/threshold",)),
    Case("threshold 1e400", form(model=MODEL, threshold="1e400"), 422, INVALID, ("/threshold",)),
    Case("threshold above one", form(model=MODEL, threshold="1.5"), 422, INVALID, ("/threshold",)),
    Case("threshold digits", form(model=MODEL, threshold="٠.٥"), 422, INVALID, ("/threshold",)),
    Case("threshold space", form(model=MODEL, threshold=" 0.9"), 422, INVALID, ("/threshold",)),
    Case("threshold empty", form(model=MODEL, threshold=""), 422, INVALID, ("/threshold",)),
    Case("threshold missing", form(model=MODEL), 422, INVALID, ("/threshold",)),
    Case("threshold a file", form(model=MODEL, threshold=("t", b"0.9")), 422, INVALID, ("/threshold",)),
    Case("model missing", form(threshold="0.9"), 422, INVALID, ("/model",)),
    Case("model a text", form(model="abc", threshold="0.9"), 422, INVALID, ("/model",)),
    Case("model twice", [*form(model=MODEL), *form(model=MODEL)], 422, INVALID, ("/model",)),
    Case("model empty", form(model=("m.pt", b""), threshold="0.9"), 422, "unsupported-format", ("/model",)),
    Case("model an HTML page", form(model=("m.pt", b"<!DOCTYPE html><html>"), threshold="0.9"), 422, "unsupported-format", ("/model",)),
    Case("model an npz", form(model=("m.npz", npz_bytes()), threshold="0.9"), 422, "unsupported-format", ("/model",)),
    Case("unknown part", form(model=MODEL, treshold="0.9"), 422, INVALID, ("/treshold",)),
    Case("options not JSON", form(model=MODEL, threshold="0.9", options="{"), 422, INVALID, ("/options",)),
    Case("options with model", form(model=MODEL, options='{"model": "a"}'), 422, INVALID, ("/options/model",)),
    Case("options unknown rule", form(model=MODEL, threshold="0.9", options='{"rule": "x"}'), 422, INVALID, ("/rule",)),
    Case("validation twice", form(model=MODEL, threshold="0.9", validation=("v.npz", npz_bytes()), options='{"evaluation": {"validation": "a"}}'), 422, INVALID, ("/options/evaluation/validation",)),
    Case("validation an HTML page", form(model=MODEL, threshold="0.9", validation=("v.npz", b"<html></html>")), 422, "unsupported-format", ("/validation",)),
]  # fmt: skip


@pytest.mark.parametrize("case", FORM_CASES, ids=lambda case: case.name)
def test_one_shot_submission(case: Case, shared: Served) -> None:
    response = shared.client.post("/v1/jobs", files=case.body)
    assert_problem(response, case.status, case.slug, *case.pointers)
    assert shared.stored() == []
    assert shared.client.get("/v1/jobs").json()["items"] == []


RAW_FORMS = {
    "no boundary": ("multipart/form-data", b"--x\r\n", 400),
    "boundary too long": (f"multipart/form-data; boundary={'x' * 100}", b"", 400),
    "cut before the end": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="model"; filename="m"\r\n\r\n' + MODEL[1],
        400,
    ),
    "another boundary": ("multipart/form-data; boundary=x", b"--y\r\n\r\n--y--", 400),
    "part without a name": (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
        400,
    ),
    "too many parts": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="options"\r\n\r\n{}\r\n' * 2000 + b"--x--",
        400,
    ),
}


@pytest.mark.parametrize("name", RAW_FORMS)
def test_malformed_form(name: str, shared: Served) -> None:
    content_type, body, status = RAW_FORMS[name]
    response = shared.client.post("/v1/jobs", content=body, headers={"Content-Type": content_type})
    assert_problem(response, status, "bad-request")
    assert shared.stored() == []


UPLOADS: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "empty": (b"", {}, 422, "unsupported-format"),
    "an HTML page": (b"<!DOCTYPE html><html></html>", {}, 422, "unsupported-format"),
    "text": (b"hello, this is not a model", {}, 422, "unsupported-format"),
    "cut short": (model_bytes()[:-5], {}, 422, "corrupt-file"),
    "header beyond the file": (b"\xff" * 5 + b"\0" * 3 + b"{}", {}, 422, "corrupt-file"),
    "digest of another": (
        model_bytes(),
        {"Repr-Digest": "sha-256=:" + "A" * 43 + "=:"},
        422,
        "digest-mismatch",
    ),
    "digest malformed": (model_bytes(), {"Repr-Digest": "sha-256=:abc:"}, 400, "bad-request"),
    "form type": (
        model_bytes(),
        {"Content-Type": "application/x-www-form-urlencoded"},
        415,
        "unsupported-media-type",
    ),
    "coded": (model_bytes(), {"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
    "too large": (b"x" * 1_000_001, {}, 413, "payload-too-large"),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_upload(name: str, shared: Served) -> None:
    body, headers, status, slug = UPLOADS[name]
    response = shared.client.post("/v1/uploads", content=body, headers={**OCTETS, **headers})
    assert_problem(response, status, slug)
    assert shared.stored() == []


def test_chunked_body_beyond_the_limit(shared: Served) -> None:
    """No Content-Length tells it beforehand: the bytes are counted as they come."""
    response = shared.client.post(
        "/v1/uploads", content=iter([b"x" * 100_000] * 30), headers=OCTETS
    )
    problem = assert_problem(response, 413, "payload-too-large")
    assert "1000000 bytes" in problem["detail"]
    assert shared.stored() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/jobs"),
        ("POST", "/v1/jobs/abc/cancel"),
        ("POST", "/healthz"),
        ("DELETE", "/v1/jobs/abc"),
        ("GET", "/v1/jobs"),
        ("PUT", "/nowhere"),
    ],
)
@pytest.mark.parametrize("chunked", [True, False])
def test_big_body_where_none_is_taken(
    method: str, path: str, chunked: bool, shared: Served
) -> None:
    content: Any = iter([b"x" * 10_000] * 10) if chunked else b"x" * 100_000
    headers = {"Content-Type": "application/json"}
    response = shared.client.request(method, path, content=content, headers=headers)
    problem = assert_problem(response, 413, "payload-too-large")
    assert "20000 bytes" in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "slug", "pointers"),
    [
        ("GET", "/v1", 404, "not-found", ()),
        ("GET", "/v1/jobs/", 404, "not-found", ()),
        ("GET", "/v1/jobs/a%2Fb", 404, "not-found", ()),
        ("GET", "/v1/jobs/a%00b", 404, "not-found", ()),
        ("GET", "/v1/jobs/" + "x" * 65, 404, "not-found", ()),
        ("GET", "/v1/jobs/unknown", 404, "not-found", ()),
        ("DELETE", "/v1/jobs/unknown", 404, "not-found", ()),
        ("POST", "/v1/jobs/unknown/cancel", 404, "not-found", ()),
        ("GET", "/v1/jobs/unknown/report", 404, "not-found", ()),
        ("GET", "/v1/jobs/unknown/weights", 404, "not-found", ()),
        ("GET", "/v1/uploads/unknown", 404, "not-found", ()),
        ("DELETE", "/v1/uploads/unknown", 404, "not-found", ()),
        ("GET", "/v1/uploads/..", 404, "not-found", ()),
        ("PUT", "/v1/jobs", 405, "method-not-allowed", ()),
        ("POST", "/healthz", 405, "method-not-allowed", ()),
        ("GET", "/v1/jobs?limit=0", 422, INVALID, ("/query/limit",)),
        ("GET", "/v1/jobs?limit=101", 422, INVALID, ("/query/limit",)),
        ("GET", "/v1/jobs?limit=ten", 422, INVALID, ("/query/limit",)),
        ("GET", "/v1/jobs?state=done", 422, INVALID, ("/query/state",)),
        ("GET", "/v1/jobs?cursor=%C3%A9", 422, INVALID, ("/query/cursor",)),
        ("GET", "/v1/jobs?cursor=bm9wZQ", 422, INVALID, ("/query/cursor",)),
        ("GET", "/v1/jobs?label=run", 422, INVALID, ("/query/label/0",)),
    ],
)
def test_paths_and_parameters(
    method: str, path: str, status: int, slug: str, pointers: tuple[str, ...], shared: Served
) -> None:
    assert_problem(shared.client.request(method, path), status, slug, *pointers)


def test_405_names_every_method_of_the_path(shared: Served) -> None:
    assert shared.client.put("/v1/jobs/x").headers["allow"] == "GET, HEAD, DELETE"
    assert shared.client.put("/v1/jobs").headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("media_type", ["text/plain", "application/xml", ""])
def test_submission_of_another_media_type(media_type: str, shared: Served) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    response = shared.client.post("/v1/jobs", content=b"{}", headers=headers)
    assert_problem(response, 415, "unsupported-media-type")
