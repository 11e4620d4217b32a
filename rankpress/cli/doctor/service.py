"""The service at an address, and the worker of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
from pydantic import BaseModel, ValidationError

from rankpress import __version__
from rankpress.cli import checkout
from rankpress.cli.doctor.check import Check, ok, skipped, warning, wrong
from rankpress.cli.problems import Failed
from rankpress.client import Client
from rankpress.client.errors import from_httpx, mapped
from rankpress.errors import Forbidden, RankpressError, Unauthorized

SECONDS = 10
HEALTH_SECONDS = 60


class _Health(BaseModel):
    status: str
    version: str


def answers(url: str, api_key: str | None, *, asked_for: bool) -> list[Check]:
    """Liveness with the version, readiness, and what the key may do. A service that is not there
    is wrong only when its address was given."""
    try:
        with mapped():
            got = httpx.get(f"{url.rstrip('/')}/healthz", timeout=SECONDS)
        health = _Health.model_validate_json(got.content)
    except ValidationError:
        return [wrong("service", f"{url} is not Rankpress", "check --url or RANKPRESS_URL")]
    except RankpressError as error:
        make = wrong if asked_for else warning
        return [make("service", f"{url}: {error.detail}", "start one: rankpress serve")]
    version = f"{url} answers, release {health.version}"
    if health.version != __version__:
        first = warning("service", f"{version}; here is {__version__}", "update the older one")
    else:
        first = ok("service", version)
    return [first, _readiness(url), _key(url, api_key)]


def _readiness(url: str) -> Check:
    try:
        got = httpx.get(f"{url.rstrip('/')}/readyz", timeout=SECONDS)
    except httpx.HTTPError as error:
        found = from_httpx(error)
        return wrong("readiness", found.detail if found else "no answer", "see the API's log")
    if got.status_code != 200:
        return wrong("readiness", "its database or store does not answer", "see the API's log")
    return ok("readiness", "its database and store answer")


def _key(url: str, api_key: str | None) -> Check:
    given = "the key" if api_key else "a call without a key"
    try:
        with Client(url, api_key=api_key, timeout=SECONDS) as client:
            next(client.jobs(page_size=1), None)
    except Unauthorized:
        return wrong("key", f"{given} is refused", "set RANKPRESS_API_KEY; see rankpress keys")
    except Forbidden:
        return wrong("key", f"{given} may not list jobs", "ask for a key of another role")
    except RankpressError as error:
        return wrong("key", error.detail, "see the API's log")
    return ok("key", f"{given} is taken")


def worker(data_dir: Path, *, needed: bool) -> Check:
    """By the worker's own health check: a heartbeat in the data folder, under its name."""
    try:
        root = checkout.find()
    except Failed:
        return skipped("worker", "its code is not here; look on the machine that runs it")
    if not data_dir.is_dir():
        return skipped("worker", "there is no data folder yet")
    run = subprocess.run(
        [sys.executable, "-P", "-m", "worker", "--health"],
        env=checkout.environment(root) | {"RANKPRESS_DATA_DIR": str(data_dir)},
        capture_output=True,
        timeout=HEALTH_SECONDS,
        check=False,
    )
    name = os.environ.get("RANKPRESS_WORKER_NAME", "worker-1")
    if run.returncode == 0:
        return ok("worker", f"{name} is alive")
    make = wrong if needed else warning
    return make(
        "worker",
        f"{name} shows no life in the data folder",
        "jobs wait until one runs: rankpress serve, or rankpress worker",
    )
