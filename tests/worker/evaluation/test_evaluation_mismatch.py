"""Everything that does not fit is told before any factorisation, with what was found."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rankpress.errors import CorruptFile, EvaluationMismatch, UnsafePickle, UnsupportedFormat
from tests.worker.evaluation.evaluation_helpers import request, stored, write_npz
from worker.evaluation import check_evaluation

X = np.zeros((10, 8), np.float32)
Y = np.arange(10) % 4


def model(**extra: torch.Tensor) -> tuple:
    state = {
        "fc1.weight": torch.zeros(6, 8),
        "fc1.bias": torch.zeros(6),
        "fc2.weight": torch.zeros(4, 6),
        "fc2.bias": torch.zeros(4),
    }
    return stored(state | extra)


def check(tmp_path, tensors=None, asked=None, **arrays):
    path = write_npz(tmp_path / "v.npz", **arrays)
    return check_evaluation(asked or request(), tensors or model(), path, None)


def test_what_fits_is_told_in_words(tmp_path):
    plan = check(tmp_path, inputs=X, targets=Y)
    assert plan.words == "mlp 8-6-4, relu"
    assert plan.assumed
    assert plan.output_layer == "fc2.weight"
    assert plan.samples == 10
    assert plan.classes == 4


def nan_at(row: int, value: float = np.nan) -> np.ndarray:
    bad = np.zeros((10, 8), np.float32)
    bad[row, 3] = value
    return bad


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": X}, r"no array 'targets'.*fidelity"),
        ({"targets": Y}, r"no array 'inputs'; it has 'targets'"),
        ({"inputs": X, "targets": Y, "labels": Y}, r"nothing reads: 'labels'"),
        ({"inputs": X, "targets": Y[:9]}, r"differ: 'inputs' has 10, 'targets' has 9"),
        ({"inputs": X[:0], "targets": Y[:0]}, r"no samples"),
        ({"inputs": np.zeros((10, 9), np.float32), "targets": Y}, r"9 values a sample.*takes 9"),
        ({"inputs": X, "targets": Y + 1}, r"holds 4 in sample 3; a class from 0 to 3"),
        ({"inputs": X, "targets": Y - 1}, r"holds -1 in sample 0"),
        ({"inputs": X, "targets": Y.astype(np.float32)}, r"'targets' is float32.*int64"),
        ({"inputs": X, "targets": Y == 1}, r"'targets' is bool"),
        ({"inputs": X, "targets": np.eye(4)[Y].astype(int)}, r"\[10, 4\].*one-hot"),
        ({"inputs": X, "targets": Y[:, None]}, r"\[10, 1\].*takes \[samples\]"),
        ({"inputs": nan_at(7), "targets": Y}, r"'inputs' holds nan in sample 7"),
        ({"inputs": nan_at(2, np.inf), "targets": Y}, r"holds an infinite value in sample 2"),
        (
            {"inputs": np.full((10, 8), 1e300), "targets": Y},
            r"infinite value in sample 0 \(read as float32\)",
        ),
        ({"inputs": X.astype(bool), "targets": Y}, r"'inputs' is bool"),
        ({"inputs": X.astype(complex), "targets": Y}, r"'inputs' is complex128"),
        ({"inputs": X.astype("U5"), "targets": Y}, r"'inputs' is str160"),
        ({"inputs": np.float32(3), "targets": Y}, r"single number"),
        ({"inputs": np.zeros((10, 0), np.float32), "targets": Y}, r"0 values a sample"),
    ],
)
def test_data_that_does_not_fit(tmp_path, arrays, message):
    with pytest.raises(EvaluationMismatch, match=message):
        check(tmp_path, **arrays)


def test_the_sample_is_numbered_across_batches(tmp_path):
    with pytest.raises(EvaluationMismatch, match="sample 7"):
        check(tmp_path, asked=request(batch_size=3), inputs=nan_at(7), targets=Y)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            model(**{"conv.weight": torch.zeros(3, 3, 3, 3)}),
            r"'conv\.weight' \[3, 3, 3, 3\].*template",
        ),
        (model(**{"bn.running_mean": torch.zeros(6)}), r"'bn\.running_mean' \[6\]"),
        (model(**{"fc1.bias": torch.zeros(5)}), r"'fc1\.bias' has shape \[5\].*\[6\] is expected"),
        (model(**{"fc3.weight": torch.zeros(2, 9)}), r"do not follow each other"),
        (stored({"a.bias": torch.zeros(3)}), r"'a\.bias' \[3\]"),
        (stored({"w": torch.zeros(4, 8)}), r"'w' \[4, 8\]"),
        (stored({"a.weight": torch.zeros(8, 4)}), r"look transposed"),
        (
            stored({"a.weight": torch.zeros(8, 8), "b.weight": torch.zeros(8, 8)}),
            r"several orders.*a\.weight -> b\.weight, or b\.weight -> a\.weight",
        ),
        (
            stored({"a.weight": torch.zeros(4, 8).to(torch.float8_e4m3fn)}),
            r"hold float8_e4m3fn",
        ),
        (stored({"a.weight": torch.zeros(1, 8)}), r"one output"),
        (
            stored({f"{i}.weight": torch.zeros(8, 8) for i in range(401)}),
            r"401 linear layers; at most 400",
        ),
    ],
)
def test_models_that_are_no_chain(tmp_path, tensors, message):
    with pytest.raises(EvaluationMismatch, match=message):
        check(tmp_path, tensors=tensors, inputs=X, targets=Y)


def test_a_bound_on_what_is_not_measured(tmp_path):
    with pytest.raises(EvaluationMismatch, match=r"'acuracy'.*it measures accuracy, macro_f1"):
        check(tmp_path, asked=request(max_drop={"acuracy": 0.1}), inputs=X, targets=Y)
    with pytest.raises(EvaluationMismatch, match="top5_accuracy"):
        check(tmp_path, asked=request(max_drop={"top5_accuracy": 0.1}), inputs=X, targets=Y)


@pytest.mark.parametrize(
    ("task", "targets", "message"),
    [
        ("multilabel", np.full((10, 4), 2), r"holds 2 in sample 0; 0 or 1"),
        ("multilabel", Y, r"\[10\].*\[samples, 4\]"),
        ("regression", np.zeros((10, 3)), r"\[10, 3\].*\[samples, 4\]"),
        ("regression", np.full((10, 4), np.nan), r"holds nan in sample 0; a finite number"),
        ("regression", np.zeros((10, 4), bool), r"'targets' is bool"),
        ("language_modelling", Y, r"\[samples, tokens, vocabulary\]"),
        ("embedding", Y, r"'<input>_pair'"),
    ],
)
def test_targets_that_do_not_fit_their_task(tmp_path, task, targets, message):
    with pytest.raises(EvaluationMismatch, match=message):
        check(tmp_path, asked=request(task=task), inputs=X, targets=targets)


def test_pairs_need_every_input_and_their_scores(tmp_path):
    asked = request(task="embedding")
    with pytest.raises(EvaluationMismatch, match=r"no array 'targets' with their scores"):
        check(tmp_path, asked=asked, inputs=X, inputs_pair=X)
    with pytest.raises(EvaluationMismatch, match=r"nothing reads: 'inputs_pair'"):
        check(tmp_path, inputs=X, inputs_pair=X, targets=Y)


def test_a_batch_that_would_not_fit_in_memory(tmp_path):
    wide = np.zeros((2, 3_000_000), np.uint8)
    tensors = stored({"a.weight": torch.empty(4, 3_000_000, device="meta")})
    path = tmp_path / "v.npz"
    np.savez_compressed(path, inputs=np.repeat(wide, 32, axis=0), targets=np.zeros(64, int))
    with pytest.raises(EvaluationMismatch, match=r"evaluation\.batch_size"):
        check_evaluation(request(batch_size=64), tensors, path, None)


def zipped(path, **members: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)
    return path


def npy(array: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **options)
    return out.getvalue()


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / "v"

    def check_bytes(data: bytes):
        path.write_bytes(data)
        return check_evaluation(request(), model(), path, None)

    with pytest.raises(UnsupportedFormat, match="empty"):
        check_bytes(b"")
    with pytest.raises(UnsupportedFormat, match=r"single \.npy"):
        check_bytes(npy(X))
    with pytest.raises(UnsupportedFormat, match="neither safetensors nor npz"):
        check_bytes(b"<!DOCTYPE html><html>...")
    with pytest.raises(UnsupportedFormat, match="neither safetensors nor npz"):
        check_bytes(pickle.dumps({"inputs": X}))
    save_file({"inputs": torch.zeros(10, 8), "targets": torch.zeros(10, dtype=torch.int64)}, path)
    whole = path.read_bytes()
    assert check_bytes(whole).samples == 10
    with pytest.raises(CorruptFile, match="cut short"):
        check_bytes(whole[:-5])
    np.savez(tmp_path / "w.npz", inputs=X, targets=Y)
    whole = (tmp_path / "w.npz").read_bytes()
    assert check_bytes(whole).samples == 10
    with pytest.raises(CorruptFile, match="cut short"):
        check_bytes(whole[: len(whole) // 2])
    at = whole.index(X.tobytes()[:64])
    with pytest.raises(CorruptFile, match="damaged"):
        check_bytes(whole[:at] + b"\x01" + whole[at + 1 :])


def test_archives_made_to_do_harm(tmp_path):
    path = tmp_path / "v.npz"
    objects = np.array([{"a": 1}], dtype=object)

    def refused(error, match, **members):
        with pytest.raises(error, match=match):
            check_evaluation(request(), model(), zipped(path, **members), None)

    refused(UnsafePickle, "Python objects", inputs__npy=npy(objects, allow_pickle=True))
    refused(UnsupportedFormat, "no array", readme__txt=b"hello")
    refused(CorruptFile, r"no \.npy array", inputs__npy=b"something else")
    refused(CorruptFile, "damaged", inputs__npy=b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16)
    refused(
        CorruptFile,
        "header of 4294967295 bytes",
        inputs__npy=b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100,
    )
    refused(UnsupportedFormat, "column by column", inputs__npy=npy(np.asfortranarray(X + 1)))
    header = npy(np.zeros((10, 8), np.float32))[:128].replace(b"(10, 8)", b"(99, 8)")
    refused(CorruptFile, "ends early", inputs__npy=header, targets__npy=npy(np.zeros(99, int)))


def test_big_endian_arrays_are_read(tmp_path):
    plan = check(tmp_path, inputs=X.astype(">f4"), targets=Y.astype(">i8"))
    assert plan.samples == 10
