"""The Dockerfile and the compose file promise what the README says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rankpress.service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("api", "worker", "worker-gpu")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def stages() -> dict[str, str]:
    """The Dockerfile's stages by name, each with those it stands on."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    found: dict[str, str] = {}
    for part in re.split(r"^(?=FROM )", text, flags=re.M)[1:]:
        match = re.match(r"FROM (\S+) AS (\S+)", part)
        assert match is not None
        found[match[2]] = found.get(match[1], "") + part
    return found


def test_services_and_volumes(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"postgres", *SERVICES}
    assert set(compose["volumes"]) == {"data", "postgres"}
    for name in SERVICES:
        assert compose["services"][name]["volumes"] == ["data:/data"]


def test_profiles_choose_the_worker(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["worker"]["profiles"] == ["cpu"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert "profiles" not in services["api"]
    assert "profiles" not in services["postgres"]
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env.example").read_text().splitlines()


def test_only_the_gpu_worker_reserves_a_gpu(compose: dict[str, Any]) -> None:
    services = compose["services"]
    devices = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "deploy" not in services["worker"]


def test_each_service_waits_for_what_it_needs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    healthy = {"condition": "service_healthy"}
    assert services["api"]["depends_on"] == {"postgres": healthy}
    for name in ("worker", "worker-gpu"):
        assert services[name]["depends_on"] == {"api": healthy}
    assert services["postgres"]["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]


def test_targets_are_stages_of_the_dockerfile(
    compose: dict[str, Any], stages: dict[str, str]
) -> None:
    targets = {compose["services"][name]["build"]["target"] for name in SERVICES}
    assert targets == {"api", "worker-cpu", "worker-cuda"}
    assert targets <= set(stages)


def test_no_secret_has_a_value() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    uses = re.findall(r"\$\{POSTGRES_PASSWORD([^}]*)\}", text)
    assert uses
    assert all(use.startswith(":?") for use in uses), "it must be given, there is no default"
    assert "POSTGRES_PASSWORD=" in (ROOT / ".env.example").read_text().splitlines()


def test_services_are_locked_down(compose: dict[str, Any]) -> None:
    for name in SERVICES:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_published_on_loopback_alone(compose: dict[str, Any]) -> None:
    published = [p for s in compose["services"].values() for p in s.get("ports", [])]
    assert len(published) == 1
    assert published[0].startswith("127.0.0.1:")


def test_variables_are_settings(compose: dict[str, Any], stages: dict[str, str]) -> None:
    known = {f"RANKPRESS_{name.upper()}" for name in Settings.model_fields}
    used = {k for name in SERVICES for k in compose["services"][name]["environment"]}
    for text in stages.values():
        for line in re.findall(r"^ENV (.*)$", text, re.M):
            used |= set(re.findall(r"(RANKPRESS_\w+)=", line))
    assert {k for k in used if k.startswith("RANKPRESS_")} <= known


@pytest.mark.parametrize("target", ["api", "worker-cpu", "worker-cuda"])
def test_target_runs_as_a_numeric_user_with_a_health_check(
    target: str, stages: dict[str, str]
) -> None:
    text = stages[target]
    assert re.findall(r"^USER (.*)$", text, re.M)[-1] == "10001:10001"
    command = re.findall(r"^CMD (.*)$", text, re.M)[-1]
    assert json.loads(command) == ["python", "-m", "app" if target == "api" else "worker"]
    (check,) = re.findall(r"^HEALTHCHECK .*?CMD (.*)$", text, re.M)
    assert json.loads(check)[0] == "python"
    assert "org.opencontainers.image.licenses" in text


def test_torch_is_not_in_the_api(stages: dict[str, str]) -> None:
    assert "--from=build-api" in stages["api"]
    assert "torch" not in stages["build-api"]
    assert "worker" not in stages["api"].split("FROM runtime AS api")[1]
