"""`rankpress inspect` and `rankpress frontier`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rankpress.errors import Conflict, NotFound
from rankpress.names import Kind
from tests.rankpress.cli.test_cli import cli
from tests.rankpress.client.fakeservice import (
    Reply,
    Seen,
    make_report,
    problem,
    running,
    whole_service,
)
from tests.rankpress.client.test_client_frontier import report, service_of
from tests.rankpress.loading.compressing_by_hand import Cut, compress, write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    tensors = {
        "a.weight": torch.zeros(6, 4),
        "a.bias": torch.zeros(6),
        "conv.weight": torch.zeros(8, 4, 3, 3),
        "depthwise.weight": torch.zeros(8, 1, 3, 3),
        "experts.w": torch.zeros(3, 5, 7),
        "steps": torch.zeros(2, 2, dtype=torch.int64),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_the_header_says_what_can_be_factorised(model: Path) -> None:
    done = cli("inspect", str(model), "--json", url="http://127.0.0.1:9")  # never asked
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["format"], found["manifest"]) == ("safetensors", None)
    rows = {
        t["name"]: (t["kind"], t["matrices"], t["m"], t["n"], t["break_even_rank"], t["reason"])
        for t in found["tensors"]
    }
    assert rows == {
        # the largest k with k (m + n) < m n
        "a.weight": ("matrix", 1, 6, 4, 2, None),
        "a.bias": (None, None, None, None, None, "not_a_matrix"),
        "conv.weight": ("convolution", 1, 8, 36, 6, None),
        "depthwise.weight": (None, None, None, None, None, "depthwise"),
        "experts.w": ("experts", 3, 5, 7, 2, None),
        "steps": (None, None, None, None, None, "integer"),
    }


def test_a_table_for_people(model: Path) -> None:
    done = cli("inspect", str(model))
    assert (done.returncode, done.stderr) == (0, "")
    for text in ("8 x 4 x 3 x 3", "8 x 36", "3 of 5 x 7", "depthwise", "int64"):
        assert text in done.stdout, text


def test_a_compressed_file_explains_itself(tmp_path: Path) -> None:
    state = {"0.weight": torch.randn(6, 9)}
    tensors, manifest, _ = compress(state, [Cut("0.weight", Kind.MATRIX, 2)])
    path = write(tmp_path / "small.safetensors", tensors, manifest)
    done = cli("inspect", str(path))
    assert "Compressed here" in done.stdout
    assert "0.1.weight @ 0.0.weight" in done.stdout
    (layer,) = json.loads(cli("inspect", str(path), "--json").stdout)["manifest"]["layers"]
    assert (layer["name"], layer["rank"]) == ("0.weight", 2)


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    page = tmp_path / "net.pt"
    page.write_text("<!doctype html><title>404</title>")
    for path, text in (
        (page, "Unsupported file format: the file is an HTML"),
        (tmp_path / "none.pt", "none.pt"),
    ):
        done = cli("inspect", str(path))
        assert (done.returncode, done.stdout) == (1, "")
        assert text in done.stderr
        assert "Traceback" not in done.stderr


def test_a_threshold_asks_the_service_and_leaves_nothing(model: Path) -> None:
    rest, ended, gone = (
        whole_service(b"weights"),
        problem(Conflict("the job has ended")),
        problem(NotFound("gone already")),
    )

    def handle(reply: Reply, seen: Seen) -> None:
        if seen.path.endswith("/cancel"):
            ended(reply, seen)
        elif seen.method == "DELETE" and "jobs" in seen.path:
            reply.send(204)
        elif seen.method == "DELETE":
            gone(reply, seen)
        else:
            rest(reply, seen)

    with running(handle) as service:
        done = cli("inspect", str(model), "-t", "0.5,0.9", "--rule", "energy", url=service.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("2 of 4") == 2
    calls = [(s.method, s.path) for s in service.seen]
    (body,) = (json.loads(s.body) for s in service.seen if s.path == "/v1/jobs")
    assert (body["threshold"], body["rule"]) == ([0.5, 0.9], "energy")
    assert calls[-3:] == [
        ("POST", "/v1/jobs/j1/cancel"),
        ("DELETE", "/v1/jobs/j1"),
        ("DELETE", "/v1/uploads/up_1"),
    ]


def test_frontier_prints_a_row_each(model: Path, tmp_path: Path) -> None:
    found = report("entropy", (0.5, 0.9))
    command = ("frontier", str(model), "--thresholds", "0.5,0.9")
    with running(service_of(found)) as service:
        shown = cli(*command, "-o", str(tmp_path / "out"), url=service.url)
    with running(service_of(found)) as service:
        scripted = cli(*command, "--json", url=service.url)
    with running(service_of(found)) as service:
        table = cli(*command, "--csv", url=service.url)
    assert [d.returncode for d in (shown, scripted, table)] == [0, 0, 0], shown.stderr
    assert "entropy 0.5" in shown.stdout
    assert "16.7 %" in shown.stdout  # 10 of 60 parameters
    assert (tmp_path / "out" / "net-threshold-0.9.safetensors").is_file()
    assert [p["threshold"] for p in json.loads(scripted.stdout)["frontier"]] == [0.5, 0.9]
    assert table.stdout.splitlines()[0].startswith("result,rule,threshold,")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "give --thresholds or --budgets"),
        (("-t", "0.5", "-b", "0.5"), "give --thresholds or --budgets"),
        (("-t", "0.5;0.9"), "no list of numbers"),
        (("-t", "0.5", "--csv", "--json"), "one of --json and --csv"),
    ],
)
def test_frontier_says_what_is_wrong(model: Path, arguments: tuple[str, ...], text: str) -> None:
    done = cli("frontier", str(model), *arguments, url="http://127.0.0.1:9")
    assert done.returncode == 2
    assert text in done.stderr


def test_frontier_of_one_threshold_is_one_row(model: Path) -> None:
    with running(whole_service(b"weights", make_report(b"weights"))) as service:
        done = cli("frontier", str(model), "-t", "0.9", url=service.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "entropy 0.9" in done.stdout
    assert "accuracy" in done.stdout
