"""CASES, Checkpoints: every element type and layout, each factorised in its own, or kept."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor

from rankpress.names import Action, Reason
from tests.end_to_end.cases.tools import (
    VECTOR,
    Result,
    Taken,
    kept,
    low,
    noise,
    passed,
    product_is,
    pt,
    rank,
)  # fmt: skip


def unusual() -> dict[str, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantised tensors are announced to go
        qint8 = torch.quantize_per_tensor(noise(8, 6), 0.1, 0, torch.qint8)
        return pt(unusual_tensors() | {"qint8": qint8})


def unusual_tensors() -> dict[str, Tensor]:
    return {
        "f64": low(96, 64, 2, torch.float64),
        "f32": low(96, 64, 3, torch.float32),
        "bf16": low(96, 64, 2, torch.bfloat16, seed=1),
        "f16": low(96, 64, 3, torch.float16, seed=2),
        "fp8": noise(96, 64).to(torch.float8_e4m3fn),
        "int8": torch.ones(96, 64, dtype=torch.int8),
        "int8_scale": torch.ones(96, 1),
        "bool": torch.ones(96, 64, dtype=torch.bool),
        "complex": torch.ones(96, 64, dtype=torch.complex64),
        "sparse": torch.eye(64).to_sparse(),
        "meta": torch.empty(96, 64, device="meta"),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 7),
    }


def every_dtype_is_its_own(result: Result) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare_dtypes(result)


def compare_dtypes(result: Result) -> None:
    sent, found = (
        torch.load(io.BytesIO(result.sent["model.pt"]), weights_only=True),
        torch.load(result.path, weights_only=True),
    )
    for name, tensor in sent.items():
        if result.layer(name).action is Action.FACTORISED:
            product_is(result, name, tensor, 1e-2 if tensor.itemsize == 2 else 1e-5)
            continue
        assert found[name].dtype == tensor.dtype
        assert found[name].layout == tensor.layout
        assert found[name].shape == tensor.shape
        if not tensor.is_meta:
            same = found[name].int_repr() if tensor.is_quantized else found[name]
            before = tensor.int_repr() if tensor.is_quantized else tensor
            assert torch.equal(same.to_dense(), before.to_dense())


DTYPE_CASES = [
    Taken(
        id="every dtype", files=unusual,
        layers={
            "f64": rank(2), "f32": rank(3), "bf16": rank(2), "f16": rank(3),
            "fp8": passed(Reason.FLOAT8),
            "int8": passed(Reason.INTEGER),
            "int8_scale": kept(Reason.ABOVE_BREAK_EVEN),
            "bool": passed(Reason.BOOLEAN),
            "complex": passed(Reason.COMPLEX),
            "qint8": passed(Reason.QUANTISED),
            "sparse": passed(Reason.SPARSE),
            "meta": passed(Reason.META),
            "scalar": VECTOR,
            "empty": passed(Reason.ZERO_SIZE),
        },
        also=every_dtype_is_its_own,
    ),
]  # fmt: skip
