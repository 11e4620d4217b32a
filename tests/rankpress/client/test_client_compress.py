"""`compress` from a path, a folder of shards, a module and a state_dict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file
from torch import nn

from rankpress.client import Watchers
from rankpress.client.compressing import default_output
from rankpress.errors import InvalidRequest
from rankpress.loading import FactorisedLinear
from rankpress.names import Kind
from tests.rankpress.client.fakeservice import make_report, running, whole_service
from tests.rankpress.loading.compressing_by_hand import Cut, compress, write

SENT = b"as it was sent"


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 9))


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    """What the service answers for `net()`."""
    tensors, manifest, _ = compress(net().state_dict(), [Cut("0.weight", Kind.MATRIX, 2)])
    return write(tmp_path / "answer.safetensors", tensors, manifest).read_bytes()


def submitted(service: Any) -> dict[str, Any]:
    (body,) = (s.body for s in service.seen if (s.method, s.path) == ("POST", "/v1/jobs"))
    found: dict[str, Any] = json.loads(body)
    return found


def test_from_a_path_with_validation(drive: Any, weights: bytes, tmp_path: Path) -> None:
    model, validation = tmp_path / "net.v2.pt", tmp_path / "val.npz"
    model.write_bytes(b"model")
    validation.write_bytes(b"samples")
    states: list[str] = []
    sent: list[int] = []
    got: list[int] = []
    watch = Watchers(
        upload=lambda done, _total: sent.append(done),
        job=lambda job: states.append(f"{job.stage}"),
        download=lambda done, _total: got.append(done),
    )
    with running(whole_service(weights)) as service:
        call = lambda c: c.compress(  # noqa: E731
            model,
            threshold=0.9,
            validation=validation,
            watch=watch,
            options={"evaluation": {"batch_size": 7}, "threshold": 0.5},
        )
        done = drive(service.url, call)
    assert [s.body for s in service.seen[:2]] == [b"model", b"samples"]
    assert submitted(service) == {
        "model": "up_1",
        "threshold": 0.9,
        "evaluation": {"validation": "up_2", "batch_size": 7},
    }
    # The suffix is that of the format written, not of the input.
    assert done.path == tmp_path / "net.v2-compressed.safetensors"
    assert done.path.read_bytes() == weights
    assert done.report == make_report(weights)
    assert done.model is None
    assert (sent, got) == ([5, 7], [len(weights)])
    assert states == ["factorise", "evaluate", "evaluate"]


def test_a_module_comes_back_swapped(drive: Any, weights: bytes) -> None:
    model = net()
    with running(whole_service(weights)) as service:
        done = drive(service.url, lambda c: c.compress(model, threshold=0.9))
    assert done.model is model
    assert isinstance(model[0], FactorisedLinear)
    assert done.path is None
    assert load(service.seen[0].body).keys() == net().state_dict().keys()


def test_what_did_not_shrink_comes_back_as_it_was(drive: Any) -> None:
    """The service hands back the file that it was sent, which has no manifest."""
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    dense = make_report(SENT, layers=make_report(SENT).layers[1:])  # the one that was kept dense
    with running(whole_service(SENT, dense)) as service:
        done = drive(service.url, lambda c: c.compress(model, threshold=1.0))
    assert done.model is model
    with running(whole_service(SENT, dense)) as service:
        state = drive(service.url, lambda c: c.compress(before, threshold=1.0)).model
    for found in (model.state_dict(), state):
        assert found.keys() == before.keys()
        assert all(torch.equal(found[k], before[k]) for k in before)


def test_a_state_dict_gives_the_tensors(drive: Any, weights: bytes, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    with running(whole_service(weights)) as service:
        call = lambda c: c.compress(net().state_dict(), threshold=0.9, out=out)  # noqa: E731
        done = drive(service.url, call)
    assert done.path == out
    assert done.model.keys() == load_file(out).keys() == load(weights).keys()


def test_a_folder_of_shards_is_one_job(drive: Any, weights: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("b.safetensors", "a.safetensors", "stray.safetensors"):
        (folder / name).write_bytes(name.encode())
    index = {"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with running(whole_service(weights)) as service:
        call = lambda c: c.compress(folder, threshold=0.9, out=tmp_path / "o")  # noqa: E731
        drive(service.url, call)
    assert submitted(service)["model"] == ["up_1", "up_2", "up_3"]
    assert [s.body for s in service.seen[1:3]] == [b"a.safetensors", b"b.safetensors"]

    (folder / "a.safetensors").unlink()
    with (
        running(whole_service(weights)) as service,
        pytest.raises(FileNotFoundError, match=r"a\.safetensors"),
    ):
        drive(service.url, lambda c: c.compress(folder, threshold=0.9))
    assert service.seen == []


@pytest.mark.parametrize("model", ["missing.pt", 3, net()])
def test_nothing_is_sent_for_a_request_that_is_wrong(
    drive: Any, model: Any, weights: bytes
) -> None:
    with running(whole_service(weights)) as service:
        with pytest.raises(InvalidRequest, match="/threshold"):
            drive(service.url, lambda c: c.compress(model, threshold=9))
        if not isinstance(model, nn.Module):
            with pytest.raises((FileNotFoundError, TypeError)):
                drive(service.url, lambda c: c.compress(model, threshold=0.9))
    assert service.seen == []


@pytest.mark.parametrize(
    ("name", "format", "expected"),
    [
        ("a.b.pth", "torch", "a.b-compressed.pth"),
        ("a.safetensors", "torch", "a-compressed.pt"),
        ("a.ckpt", "safetensors", "a-compressed.safetensors"),
        ("shards.zip", "tar", "shards-compressed.tar"),
        ("model-7.5b/", "tar", "model-7.5b-compressed.tar"),
    ],
)
def test_the_default_name(name: str, format: str, expected: str, tmp_path: Path) -> None:
    model = tmp_path / name
    if name.endswith("/"):
        model.mkdir()
    report = make_report(b"", output_format=format)
    assert default_output(model, report) == tmp_path / expected
