"""Small inputs and assertions that the tests of the service share."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save

PREFIX = "urn:rankpress:problem:"
OCTETS = {"Content-Type": "application/octet-stream"}


def model_bytes(rows: int = 6, columns: int = 4) -> bytes:
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    return save({"0.weight": values, "0.bias": values[:, 0].copy()})


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, inputs=np.zeros((3, 4), np.float32), targets=np.zeros(3, np.int64))
    return file.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def upload(client: Any, data: bytes | None = None, **headers: str) -> str:
    response = client.post(
        "/v1/uploads",
        content=model_bytes() if data is None else data,
        headers={**OCTETS, **headers},
    )
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def submit(client: Any, **fields: Any) -> dict[str, Any]:
    body = {"model": upload(client), "threshold": 0.9, **fields}
    response = client.post("/v1/jobs", json=body)
    assert response.status_code == 202, response.text
    return dict(response.json())


def assert_problem(
    response: httpx.Response, status: int, slug: str, *pointers: str
) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == PREFIX + slug
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == f"urn:rankpress:request:{response.headers['x-request-id']}"
    assert [item["pointer"] for item in body["errors"]] == list(pointers), body
    assert "Traceback" not in response.text
    assert "/tmp" not in response.text
    return body
