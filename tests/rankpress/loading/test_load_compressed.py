"""Each module type: the loaded model computes what the dense one does with left @ right in its
weights. Shapes are never square, so that a swapped side shows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rankpress.loading import (
    FactorisedConv,
    FactorisedConv1D,
    FactorisedEmbedding,
    FactorisedLinear,
    load_compressed,
)
from rankpress.names import Kind
from tests.rankpress.loading.compressing_by_hand import Cut, compress, write


class Conv1D(nn.Module):
    """As in transformers: the weight is stored [in, out]."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, self.nx), self.weight).view(
            *x.shape[:-1], self.nf
        )


Conv1D.__module__ = "transformers.pytorch_utils"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=5, vdim=7, batch_first=True)
        self.packed = nn.MultiheadAttention(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(3)
        key, value = torch.randn(2, 3, 5, dtype=x.dtype), torch.randn(2, 3, 7, dtype=x.dtype)
        first = self.attention(x, key, value)[0]
        return self.packed(first, first, first)[0]


class Scaled(nn.Linear):
    """A subclass that does more than its kind: it must keep its own forward."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 11, shape)


Case = tuple[Callable[[], nn.Module], list[Cut], Tensor, dict[str, type]]
M, C, S = Kind.MATRIX, Kind.CONVOLUTION, Kind.CONVOLUTION_SPATIAL


def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    lin, image = FactorisedLinear, randn(2, 5, 9, 10)
    conv = nn.Conv2d
    return {
        "linear": (
            lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 9)),
            [Cut("0.weight", M, 2), Cut("2.weight", M, 3)],
            randn(5, 6),
            {"0": lin, "2": lin},
        ),
        "linear without bias": (
            lambda: nn.Sequential(nn.Linear(6, 4, bias=False)),
            [Cut("0.weight", M, 3)],
            randn(5, 6),
            {"0": lin},
        ),
        "linear subclass": (
            lambda: nn.Sequential(Scaled(6, 4)),
            [Cut("0.weight", M, 3)],
            randn(5, 6),
            {"0": Scaled},
        ),
        "one kept dense": (
            lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 9)),
            [Cut("2.weight", M, 3)],
            randn(5, 6),
            {"0": nn.Linear, "2": lin},
        ),
        "the root itself": (
            lambda: nn.Linear(6, 4),
            [Cut("weight", M, 2)],
            randn(5, 6),
            {"": nn.Linear},
        ),
        "conv1d": (
            lambda: nn.Sequential(nn.Conv1d(5, 7, 3, stride=2, padding=2, dilation=2)),
            [Cut("0.weight", C, 4)],
            randn(2, 5, 20),
            {"0": FactorisedConv},
        ),
        "conv2d": (
            lambda: nn.Sequential(
                conv(5, 7, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
            ),
            [Cut("0.weight", C, 4)],
            image,
            {"0": FactorisedConv},
        ),
        "conv2d, padding same": (
            lambda: nn.Sequential(conv(5, 7, (4, 3), padding="same", padding_mode="reflect")),
            [Cut("0.weight", C, 4)],
            image,
            {"0": FactorisedConv},
        ),
        "conv3d": (
            lambda: nn.Sequential(nn.Conv3d(2, 7, (1, 2, 3), padding=1, bias=False)),
            [Cut("0.weight", C, 4)],
            randn(2, 2, 4, 5, 6),
            {"0": FactorisedConv},
        ),
        "spatial": (
            lambda: nn.Sequential(
                conv(5, 7, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2))
            ),
            [Cut("0.weight", S, 6)],
            image,
            {"0": FactorisedConv},
        ),
        "spatial, padding same": (
            lambda: nn.Sequential(conv(5, 7, (4, 3), padding="same", dilation=(1, 2))),
            [Cut("0.weight", S, 6)],
            image,
            {"0": FactorisedConv},
        ),
        "spatial, circular": (
            lambda: nn.Sequential(conv(5, 7, 3, padding=(1, 2), padding_mode="circular")),
            [Cut("0.weight", S, 6)],
            image,
            {"0": FactorisedConv},
        ),
        "grouped conv": (
            lambda: nn.Sequential(conv(6, 8, 3, groups=2)),
            [Cut("0.weight", C, 4)],
            randn(2, 6, 9, 10),
            {"0": conv},
        ),
        "transposed conv": (
            lambda: nn.Sequential(nn.ConvTranspose2d(5, 7, 3, stride=2, output_padding=1)),
            [Cut("0.weight", C, 4)],
            image,
            {"0": nn.ConvTranspose2d},
        ),
        "embedding": (
            lambda: nn.Sequential(nn.Embedding(11, 6, padding_idx=3), nn.Linear(6, 4)),
            [Cut("0.weight", M, 3), Cut("1.weight", M, 2)],
            tokens(2, 5),
            {"0": FactorisedEmbedding, "1": lin},
        ),
        "embedding with max_norm": (
            lambda: nn.Sequential(nn.EmbeddingBag(11, 6)),
            [Cut("0.weight", M, 3)],
            tokens(2, 5),
            {"0": nn.EmbeddingBag},
        ),
        "transformers' conv1d": (
            lambda: nn.Sequential(Conv1D(9, 6)),
            [Cut("0.weight", M, 3)],
            randn(2, 5, 6),
            {"0": FactorisedConv1D},
        ),
        "multi-head attention": (
            Attention,
            [
                Cut("attention.q_proj_weight", M, 3),
                Cut("attention.k_proj_weight", M, 3),
                Cut("attention.v_proj_weight", M, 4),
                Cut("attention.out_proj.weight", M, 5),
                Cut("packed.in_proj_weight", M, 4),
                Cut("packed.out_proj.weight", M, 3),
            ],
            randn(2, 4, 8),
            {"attention": nn.MultiheadAttention, "packed.out_proj": lin},
        ),
        "encoder layer": (
            lambda: nn.TransformerEncoderLayer(8, 2, 20, batch_first=True, dropout=0.0),
            [
                Cut("self_attn.in_proj_weight", M, 4),
                Cut("self_attn.out_proj.weight", M, 3),
                Cut("linear1.weight", M, 4),
                Cut("linear2.weight", M, 5),
            ],
            randn(2, 4, 8),
            {"linear1": lin, "self_attn": nn.MultiheadAttention},
        ),
    }


CASES = cases()


# Said by torch itself, of the dense layer too.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_computes_what_the_multiplied_weights_do(name: str, training: bool, tmp_path: Path) -> None:
    build, cuts, inputs, types = CASES[name]
    torch.manual_seed(1)
    dense = build().double().train(training)
    tensors, manifest, reference = compress(dense.state_dict(), cuts)
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    loaded = load_compressed(build().double().train(training), path)
    dense.load_state_dict(reference)

    for where, kind in types.items():
        assert isinstance(loaded.get_submodule(where), kind), where
    with torch.no_grad():
        expected, found = dense(inputs), loaded(inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert all(m.training is training for m in loaded.modules())


RECURRENT: dict[str, tuple[Callable[[], nn.RNNBase], list[str]]] = {
    "lstm": (lambda: nn.LSTM(5, 7, 2, bidirectional=True, proj_size=3), ["weight_hr_l0"]),
    "gru": (lambda: nn.GRU(5, 7, 2), ["weight_ih_l1"]),
    "rnn": (lambda: nn.RNN(5, 7), []),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_weights_are_parametrised(name: str, tmp_path: Path) -> None:
    build, more = RECURRENT[name]
    dense = build().double()
    cuts = [Cut(n, M, 2) for n in ("weight_ih_l0", "weight_hh_l0", *more)]
    tensors, manifest, reference = compress(dense.state_dict(), cuts)
    assert "weight_ih_l0.right" in tensors
    loaded = load_compressed(build().double(), write(tmp_path / "c.safetensors", tensors, manifest))
    dense.load_state_dict(reference)
    inputs = randn(4, 2, 5)

    assert parametrize.is_parametrized(loaded, "weight_ih_l0")
    copied = copy.deepcopy(loaded)
    for model in (loaded, copied):
        torch.testing.assert_close(model(inputs)[0], dense(inputs)[0], rtol=1e-10, atol=1e-10)
    loaded(inputs)[0].sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_a_pair_of_cells_and_a_bilinear_layer(tmp_path: Path) -> None:
    def build() -> nn.ModuleDict:
        return nn.ModuleDict({"cell": nn.LSTMCell(5, 7), "bilinear": nn.Bilinear(5, 7, 3)}).double()

    dense = build()
    cuts = [Cut("cell.weight_ih", M, 2), Cut("bilinear.weight", Kind.EXPERTS, 2)]
    tensors, manifest, reference = compress(dense.state_dict(), cuts)
    loaded = load_compressed(build(), write(tmp_path / "c.safetensors", tensors, manifest))
    dense.load_state_dict(reference)
    x = randn(4, 5)
    for model in (loaded, dense):
        hidden, _ = model["cell"](x)
        model.result = model["bilinear"](x, hidden)
    torch.testing.assert_close(loaded.result, dense.result, rtol=1e-10, atol=1e-10)


def test_keys_after_the_swap_are_those_of_the_file(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.ModuleDict(
            {
                "embed": nn.Embedding(11, 6),
                "conv": nn.Conv2d(3, 5, 3),
                "project": Conv1D(9, 6),
                "head": nn.Linear(6, 4),
            }
        )

    cuts = [
        Cut("embed.weight", M, 3),
        Cut("conv.weight", C, 3),
        Cut("project.weight", M, 2),
        Cut("head.weight", M, 2),
    ]
    tensors, manifest, _ = compress(build().state_dict(), cuts)
    loaded = load_compressed(build(), write(tmp_path / "c.safetensors", tensors, manifest))
    assert loaded.state_dict().keys() == tensors.keys()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, tensors[key]), key
    loaded.load_state_dict(tensors)
    for name in ("embed", "conv", "project", "head"):
        assert loaded.get_submodule(name).weight.shape == build().get_submodule(name).weight.shape


def test_plain_torch_loads_what_the_loader_does(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 9))
    tensors, manifest, _ = compress(dense.state_dict(), [Cut("0.weight", M, 2)])
    plain = nn.Sequential(
        nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 4)), nn.ReLU(), nn.Linear(4, 9)
    )
    plain.load_state_dict(tensors)
    loaded = load_compressed(dense, write(tmp_path / "c.safetensors", tensors, manifest))
    x = torch.randn(3, 6)
    assert torch.equal(plain(x), loaded(x))


def test_batchnorm_buffers_and_biases_come_bit_for_bit(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 7))

    dense = build()
    dense(torch.randn(4, 3, 4, 4))  # moves the running statistics
    state = dense.state_dict()
    cuts = [Cut("0.weight", C, 3), Cut("3.weight", M, 2)]
    tensors, manifest, _ = compress(state, cuts)
    loaded = load_compressed(build(), write(tmp_path / "c.safetensors", tensors, manifest))
    for name in ("running_mean", "running_var", "num_batches_tracked", "weight", "bias"):
        assert torch.equal(getattr(loaded[1], name), state[f"1.{name}"])
    assert torch.equal(loaded[3].bias, state["3.bias"])
    assert loaded[1].num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_models_dtype_and_gradients_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 9))
    tensors, manifest, _ = compress(model.state_dict(), [Cut("0.weight", M, 2)])
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    frozen = model.to(dtype).requires_grad_(False)
    loaded = load_compressed(frozen, path)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_model_on_the_meta_device_gets_real_tensors(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 9)).double().eval()
    tensors, manifest, reference = compress(dense.state_dict(), [Cut("0.weight", M, 2)])
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    loaded = load_compressed(copy.deepcopy(dense).to("meta"), path)
    dense.load_state_dict(reference)
    x = randn(3, 6)
    torch.testing.assert_close(loaded(x), dense(x), rtol=1e-10, atol=1e-10)


def test_a_hooked_layer_keeps_its_hook(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 9)).double()
    tensors, manifest, reference = compress(dense.state_dict(), [Cut("0.weight", M, 2)])
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    model = copy.deepcopy(dense)
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda _m, _i, output: seen.append(output))
    loaded = load_compressed(model, path)
    dense.load_state_dict(reference)
    x = randn(3, 6)
    torch.testing.assert_close(loaded(x), dense(x), rtol=1e-10, atol=1e-10)
    assert len(seen) == 1
