"""Manifests that a cluster would take, and dashboards and alerts of metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

from app.metrics import ApiMetrics
from rankpress.errors import RankpressError
from rankpress.service.settings import Settings
from worker.jobs.metrics import WorkerMetrics

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = "1.31"
# Kinds of operators' own, which the cluster's schema does not have; each is checked below.
CUSTOM = ("PodMonitor", "ScaledObject")
METRIC = re.compile(r"\brankpress_[a-z_]+")
SECRET_VARIABLES = {
    "RANKPRESS_DATABASE_URL",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
}


def documents() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name}:{document['kind']}/{document['metadata']['name']}", document)
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    ]


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {d["metadata"]["name"]: d for _, d in documents() if d["kind"] == kind}


def metrics() -> set[str]:
    """Every name that API and worker serve, as Prometheus has it."""
    worker = CollectorRegistry()
    WorkerMetrics(worker)
    names = set()
    for registry in (ApiMetrics().registry, worker):
        for family in registry.collect():
            if family.type == "counter":
                names.add(f"{family.name}_total")
            elif family.type == "histogram":
                names |= {f"{family.name}_{end}" for end in ("bucket", "sum", "count")}
            else:
                names.add(family.name)
    return names


def expressions() -> list[tuple[str, str]]:
    board = json.loads((DEPLOY / "grafana" / "rankpress.json").read_text(encoding="utf-8"))
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
    scaled = of_kind("ScaledObject").values()
    return [
        *((p["title"], t["expr"]) for p in board["panels"] for t in p["targets"]),
        *((r["alert"], r["expr"]) for group in rules["groups"] for r in group["rules"]),
        *(("autoscaling", t["metadata"]["query"]) for s in scaled for t in s["spec"]["triggers"]),
    ]


@pytest.mark.parametrize(("name", "document"), documents(), ids=lambda value: str(value)[:60])
def test_the_cluster_would_take_it(name: str, document: dict[str, Any]) -> None:
    if document["kind"] in CUSTOM:
        assert "." in document["apiVersion"].split("/")[0], name
        assert document["spec"]
        return
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_every_metric_named_exists(where: str, expression: str) -> None:
    named = set(METRIC.findall(expression))
    assert named
    assert named <= metrics(), where


def test_every_metric_of_the_code_is_on_the_dashboard() -> None:
    board = (DEPLOY / "grafana" / "rankpress.json").read_text(encoding="utf-8")
    shown = set(METRIC.findall(board))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metrics()}
    missing = {f for f in families if not any(s.startswith(f) for s in shown)}
    # Whether the database is up is an alert, and when a counter was made is nobody's question.
    assert missing - {"rankpress_database_up"} == set()


def test_reasons_in_alerts_are_problems() -> None:
    slugs = {c.slug for c in _subclasses(RankpressError)}
    for where, expression in expressions():
        for group in re.findall(r'reason=~"([^"]+)"', expression):
            assert set(group.split("|")) <= slugs, where


def test_alerts_say_what_and_how_bad() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
    for rule in rules["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_dashboard_panels_do_not_overlap() -> None:
    board = json.loads((DEPLOY / "grafana" / "rankpress.json").read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])


def test_variables_are_settings() -> None:
    known = {f"RANKPRESS_{name.upper()}" for name in Settings.model_fields}
    config = of_kind("ConfigMap")["rankpress"]["data"]
    set_here = set(config)
    for deployment in of_kind("Deployment").values():
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            set_here |= {variable["name"] for variable in container.get("env", ())}
    assert set_here <= known | SECRET_VARIABLES


@pytest.mark.parametrize("name", ["rankpress-api", "rankpress-worker"])
def test_pods_are_locked_down(name: str) -> None:
    spec = of_kind("Deployment")[name]["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}
    assert container["resources"]["limits"]["memory"]
    assert container["livenessProbe"]
    assert not container["image"].endswith(":latest")
    assert ":" in container["image"]


def test_selectors_find_their_pods() -> None:
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in of_kind("Deployment").values()]
    selectors = [
        *(d["spec"]["selector"]["matchLabels"] for d in of_kind("Deployment").values()),
        *(d["spec"]["selector"] for d in of_kind("Service").values()),
        *(d["spec"]["selector"]["matchLabels"] for d in of_kind("PodDisruptionBudget").values()),
        *(d["spec"]["selector"]["matchLabels"] for d in of_kind("PodMonitor").values()),
    ]
    for selector in selectors:
        assert any(selector.items() <= found.items() for found in labels)
    targets = [d["spec"]["scaleTargetRef"]["name"] for d in of_kind("ScaledObject").values()]
    assert set(targets) <= set(of_kind("Deployment"))


def test_the_worker_has_a_gpu_and_a_name_of_its_own() -> None:
    spec = of_kind("Deployment")["rankpress-worker"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    variables = {v["name"]: v for v in container["env"]}
    source = variables["RANKPRESS_WORKER_NAME"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert source == "metadata.name"


def _subclasses(cls: type[RankpressError]) -> list[type[RankpressError]]:
    return [s for c in cls.__subclasses__() for s in (c, *_subclasses(c))]
