"""CASES, Factorisation: the traps of METHOD.md, as a caller meets them."""

from __future__ import annotations

import torch
from torch import Tensor

from rankpress.names import Kind, Reason
from tests.end_to_end.cases.tools import (
    Result,
    Taken,
    kept,
    low,
    noise,
    passed,
    product_is,
    rank,
    st,
)  # fmt: skip


def constant(value: float) -> Tensor:
    return torch.full((96, 64), value)


def constants_are_exact(result: Result) -> None:
    product_is(result, "tiny", constant(1e-30))
    product_is(result, "huge", constant(1e25))


def break_even_is_338(result: Result) -> None:
    assert result.layer("w").break_even_rank == 338
    assert result.layer("w").full_rank == 512
    assert result.path.read_bytes() == result.sent["model.safetensors"]


CONV1D = low(96, 64, 2, seed=5)  # transformers' Conv1D: [in, out], the other way around than Linear


def conv1d_as_stored(result: Result) -> None:
    product_is(result, "h.0.attn.c_attn.weight", CONV1D)
    right, left = (result.tensors()[k] for k in result.layer("h.0.attn.c_attn.weight").factor_keys)
    assert (left.shape, right.shape) == ((96, 2), (2, 64))


def small_is_exact(result: Result) -> None:
    product_is(result, "w.weight", low(6, 4, 2))
    assert [tuple(result.tensors()[k].shape) for k in ("w.0.weight", "w.1.weight")] == [
        (2, 4), (6, 2),
    ]  # fmt: skip


def experts() -> Tensor:
    return torch.stack([low(96, 64, k, seed=k) for k in (1, 2, 3, 2)])


def each_expert_has_its_rank(result: Result) -> None:
    layer = result.layer("moe.experts.gate_up_proj")
    assert layer.kind is Kind.EXPERTS
    assert layer.note == "ranks of the experts: 1, 2, 3, 2"
    right, left = (result.tensors()[key] for key in layer.factor_keys)
    torch.testing.assert_close(left @ right, experts(), rtol=0, atol=1e-4)


def wide_products(result: Result) -> None:
    product_is(result, "embedding.weight", low(300_000, 64, 2, torch.float16), 2e-3)
    product_is(result, "wide.weight", low(4, 150_000, 1, seed=3))


def rows_that_are_not_numbers() -> dict[str, bytes]:
    small, inf, nan = torch.ones(2, 2), noise(96, 64), noise(96, 64)
    small[0, 0], inf[5, 6], nan[3, 4] = torch.inf, -torch.inf, torch.nan
    state = {"small": small, "inf": inf, "nan": nan, "zeros": torch.zeros(96, 64)}
    state["one"] = low(96, 64, 1)
    return st(state | {"row": noise(1, 64), "column": noise(96, 1)})


FACTORISED_CASES = [
    Taken(
        id="inf, nan, zeros, rank 1, 1 x N, N x 1",
        files=rows_that_are_not_numbers,
        layers={
            "small": kept(Reason.ABOVE_BREAK_EVEN),  # [[inf, 1], [1, 1]] is not even read
            "inf": passed(Reason.NON_FINITE),
            "nan": passed(Reason.NON_FINITE),
            "zeros": kept(Reason.ZERO),
            "one": rank(1),
            "row": kept(Reason.ABOVE_BREAK_EVEN),
            "column": kept(Reason.ABOVE_BREAK_EVEN),
        },
    ),
    Taken(
        id="constants of 1e-30 and 1e25",
        files=lambda: st({"tiny": constant(1e-30), "huge": constant(1e25)}),
        layers={"tiny": rank(1), "huge": rank(1)},
        also=constants_are_exact,
    ),
    Taken(
        id="512 x 1000 at rank 400",
        files=lambda: st({"w": noise(512, 1000)}),
        request={"layers": [{"match": "w", "rank": 400}]},
        layers={"w": kept(Reason.ABOVE_BREAK_EVEN, 400)},
        also=break_even_is_338,
    ),
    Taken(
        id="GPT-2's Conv1D",
        files=lambda: st({"h.0.attn.c_attn.weight": CONV1D, "h.0.attn.c_attn.bias": noise(64)}),
        layers={
            "h.0.attn.c_attn.weight": rank(2),
            "h.0.attn.c_attn.bias": passed(Reason.NOT_A_MATRIX),
        },
        also=conv1d_as_stored,
    ),
    Taken(
        id="6 x 4, not square",  # the other tensor pays for the manifest
        files=lambda: st({"w.weight": low(6, 4, 2), "large.weight": low(192, 128, 2)}),
        layers={"w.weight": rank(2), "large.weight": rank(2)},
        also=small_is_exact,
    ),
    Taken(
        id="a stack of experts",
        files=lambda: st({"moe.experts.gate_up_proj": experts()}),
        layers={"moe.experts.gate_up_proj": rank(3)},
        also=each_expert_has_its_rank,
    ),
    Taken(
        id="a stack without a name that says so",  # read as a 1-D convolution, and never silently
        files=lambda: st({"block.gate_up": experts()}),
        layers={"block.gate_up": rank(3)},
    ),
    Taken(
        id="300000 x 64 and 4 x 150000",
        files=lambda: st(
            {
                "embedding.weight": low(300_000, 64, 2, torch.float16),
                "wide.weight": low(4, 150_000, 1, seed=3),
            }
        ),
        layers={"embedding.weight": rank(2), "wide.weight": rank(1)},
        also=wide_products,
    ),
]
