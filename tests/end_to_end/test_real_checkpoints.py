"""Checkpoints that people really have, out of published packages, through the running service."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rankpress import Client
from rankpress.errors import UnsupportedFormat
from rankpress.loading import load_compressed, read_tensors
from rankpress.names import Action, Reason
from rankpress.schemas.report import RankReport
from tests.end_to_end import packages
from tests.end_to_end.processes import Service
from tests.end_to_end.real_architectures import SpeakerEncoder
from tests.end_to_end.real_cases import REAL, Real, deficient, factorised, outputs, truncated

each = pytest.mark.parametrize("real", REAL, ids=lambda real: real.id)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The references' small SVDs: threads that spin are slow on a machine that is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def compressed(
    service: Service, real: Real, tmp_path: Path, **fields: object
) -> tuple[RankReport, Path]:
    source = tmp_path / real.filename
    source.write_bytes(real.bytes())
    with Client(service.url) as client:
        done = client.compress(source, out=tmp_path / "out", **fields)
    return done.report, tmp_path / "out"


@each
def test_outputs_equal_a_float64_reference_at_the_same_ranks(
    real: Real, sqlite_service: Service, tmp_path: Path
) -> None:
    report, out = compressed(sqlite_service, real, tmp_path, threshold=real.threshold)
    state = real.state()
    assert {layer.name for layer in report.layers} == set(state)
    assert report.weights_path == real.weights_path
    assert len(factorised(report)) >= 3
    assert out.stat().st_size == report.bytes_after < report.bytes_before

    reference = real.build().double()
    reference.load_state_dict(truncated(state, report), strict=True)
    loaded = load_compressed(real.build(), out, strict=True)
    expected = outputs(reference, real, torch.float64)
    torch.testing.assert_close(outputs(loaded, real, torch.float64), expected, rtol=1e-3, atol=1e-4)
    # The ranks did something: the original says something else.
    original = real.build()
    original.load_state_dict(state, strict=True)
    assert not torch.allclose(outputs(original, real, torch.float64), expected, 1e-3, 1e-4)


@each
def test_what_is_not_factorised_keeps_its_bits(
    real: Real, sqlite_service: Service, tmp_path: Path
) -> None:
    report, out = compressed(sqlite_service, real, tmp_path, threshold=real.threshold)
    state, tensors = real.state(), read_tensors(out)
    renamed = {
        f"{layer.name.removesuffix('weight')}bias": f"{layer.name.removesuffix('weight')}1.bias"
        for layer in factorised(report)
    }
    for layer in report.layers:
        if layer.action is Action.FACTORISED:
            assert {tensors[key].dtype for key in layer.factor_keys} == {state[layer.name].dtype}
        else:
            assert layer.reason is not None
            key = layer.name if layer.name in tensors else renamed[layer.name]
            assert torch.equal(tensors[key], state[layer.name])
            assert tensors[key].dtype == state[layer.name].dtype


@each
def test_lossless_threshold_changes_nothing_of_full_rank(
    real: Real, sqlite_service: Service, tmp_path: Path
) -> None:
    """tau = 1.0 on the checkpoint as it is: all is of full rank, and the file comes back."""
    report, out = compressed(sqlite_service, real, tmp_path, threshold=1.0, protect_output=False)
    assert factorised(report) == []
    assert out.read_bytes() == real.bytes()


@each
def test_lossless_threshold_keeps_the_outputs(
    real: Real, sqlite_service: Service, tmp_path: Path
) -> None:
    """tau = 1.0 on the checkpoint with its matrices cut to a third of their rank: what float32
    cannot tell from zero goes, and nothing else."""
    state, ranks = deficient(real.state())
    source = tmp_path / "deficient.pt"
    torch.save({"model": state}, source)
    with Client(sqlite_service.url) as client:
        done = client.compress(source, out=tmp_path / "out", threshold=1.0, protect_output=False)
    found = {layer.name: layer.rank for layer in factorised(done.report)}
    assert found == ranks
    original = real.build()
    original.load_state_dict(state, strict=True)
    loaded = load_compressed(real.build(), tmp_path / "out", strict=True)
    torch.testing.assert_close(
        outputs(loaded, real, torch.float64),
        outputs(original, real, torch.float64),
        rtol=1e-4,
        atol=1e-5,
    )


@each
def test_dense_layout_loads_by_load_state_dict(
    real: Real, sqlite_service: Service, tmp_path: Path
) -> None:
    report, out = compressed(
        sqlite_service, real, tmp_path, threshold=real.threshold, output={"layout": "dense"}
    )
    model = real.build()
    model.load_state_dict(read_tensors(out), strict=True)
    reference = real.build().double()
    reference.load_state_dict(truncated(real.state(), report), strict=True)
    torch.testing.assert_close(
        outputs(model, real, torch.float64),
        outputs(reference, real, torch.float64),
        rtol=1e-3,
        atol=1e-4,
    )


def test_efficientnet_has_what_checkpoints_have(sqlite_service: Service, tmp_path: Path) -> None:
    report, out = compressed(sqlite_service, REAL[0], tmp_path, threshold=0.8)
    by_name = {layer.name: layer for layer in report.layers}
    assert by_name["_bn0.num_batches_tracked"].reason is Reason.INTEGER
    assert by_name["_blocks.3._depthwise_conv.weight"].reason is Reason.DEPTHWISE
    assert by_name["_bn0.running_mean"].reason is Reason.NOT_A_MATRIX
    assert by_name["_fc.weight"].reason is Reason.OUTPUT_PROTECTED
    assert torch.load(out, weights_only=True).keys() >= {"_fc.weight", "_conv_head.0.weight"}


def test_resemblyzer_keeps_what_is_not_weights(sqlite_service: Service, tmp_path: Path) -> None:
    report, out = compressed(sqlite_service, REAL[1], tmp_path, threshold=0.8)
    before = torch.load(io.BytesIO(REAL[1].bytes()), map_location="cpu", weights_only=True)
    after = torch.load(out, weights_only=True)
    assert after.keys() == before.keys()
    assert after["step"] == before["step"]
    torch.testing.assert_close(after["optimizer_state"], before["optimizer_state"], rtol=0, atol=0)
    assert any("optimizer" in note for note in report.notes)
    assert any("model_state" in note for note in report.notes)


def test_resemblyzer_without_its_optimizer(sqlite_service: Service, tmp_path: Path) -> None:
    report, out = compressed(
        sqlite_service, REAL[1], tmp_path, threshold=0.8, output={"drop_optimizer": True}
    )
    assert torch.load(out, weights_only=True).keys() == {"step", "model_state"}
    assert report.bytes_after < report.bytes_before / 2
    load_compressed(SpeakerEncoder(), out, strict=True)


def test_silero_torchscript_is_refused(sqlite_service: Service) -> None:
    before = sqlite_service.stored()
    scripted = packages.SILERO.read("silero_vad/data/silero_vad.jit")
    assert zipfile.is_zipfile(io.BytesIO(scripted))
    with Client(sqlite_service.url) as client, pytest.raises(UnsupportedFormat) as caught:
        client.upload_bytes(scripted, filename="silero_vad.pt")
    assert caught.value.to_problem().status == 422
    assert "TorchScript" in caught.value.detail
    assert "state_dict()" in caught.value.detail
    assert sqlite_service.stored() == before
