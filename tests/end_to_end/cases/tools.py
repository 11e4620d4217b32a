"""A line of the table: what is sent, and exactly what becomes of it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import save
from torch import Tensor

from rankpress.loading import read_tensors
from rankpress.names import Action, Reason
from rankpress.schemas.report import RankReport

# Rank-deficient layers shrink at tau = 1, to a rank that is known beforehand.
REQUEST: dict[str, Any] = {"threshold": 1.0, "protect_output": False}

Outcome = tuple[Action, Reason | None, int | None]
FACTORISED = Action.FACTORISED
KEPT = Action.KEPT_DENSE
PASSED = Action.PASSED_THROUGH


def rank(k: int) -> Outcome:
    return FACTORISED, None, k


def kept(reason: Reason, rank: int | None = None) -> Outcome:
    return KEPT, reason, rank


def passed(reason: Reason) -> Outcome:
    return PASSED, reason, None


VECTOR = passed(Reason.NOT_A_MATRIX)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A 422 at the upload of the last file, at the submission, or as the job's error."""

    id: str
    files: Callable[[], dict[str, bytes]]
    at: str
    slug: str
    pointer: str | None = None
    says: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result:
    report: RankReport
    path: Path
    sent: dict[str, bytes]
    uploads: list[dict[str, Any]]

    def tensors(self) -> dict[str, Tensor]:
        return read_tensors(self.path)

    def layer(self, name: str) -> Any:
        return next(x for x in self.report.layers if x.name == name)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A job that succeeds: action, reason and rank of every tensor, and what else must hold."""

    id: str
    files: Callable[[], dict[str, bytes]]
    layers: dict[str, Outcome]
    request: Mapping[str, Any] = field(default_factory=dict)
    also: Callable[[Result], None] = lambda result: None


def one(data: bytes, name: str = "model.pt") -> dict[str, bytes]:
    return {name: data}


def pt(value: Any, **options: Any) -> dict[str, bytes]:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return one(file.getvalue())


def st(state: dict[str, Tensor], **metadata: str) -> dict[str, bytes]:
    return one(save(state, metadata or None), "model.safetensors")


def low(m: int, n: int, k: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """[m, n] of rank k, in small integers, so that every dtype holds it exactly."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(-1, 2, (m, k), generator=generator)
    right = torch.randint(-1, 2, (k, n), generator=generator)
    return (left @ right).to(dtype)


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def product_is(result: Result, name: str, expected: Tensor, rtol: float = 1e-5) -> None:
    """The factors multiply to the tensor as it was stored, in its dtype."""
    right, left = (result.tensors()[key] for key in result.layer(name).factor_keys)
    assert right.dtype == left.dtype == expected.dtype
    scale = float(expected.double().abs().max())
    torch.testing.assert_close(
        left.double() @ right.double(), expected.double(), rtol=0, atol=rtol * scale
    )


class Caller:
    """The service as `curl` sees it: no client that checks anything beforehand."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=120)

    def upload(self, name: str, data: bytes, **headers: str) -> httpx.Response:
        disposition = f'attachment; filename="{name}"'
        sent = {"Content-Type": "application/octet-stream", "Content-Disposition": disposition}
        return self.http.post("/v1/uploads", content=data, headers=sent | headers)

    def submit(self, request: Mapping[str, Any]) -> httpx.Response:
        return self.http.post("/v1/jobs", json=dict(request))

    def ended(self, job_id: str) -> dict[str, Any]:
        while True:
            job = self.http.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=20"}).json()
            if job["state"] in ("succeeded", "failed", "canceled"):
                return dict(job)
