"""The modules that take a dense layer's place. Their keys are those of the compressed file:
`0.weight` is the right factor and `1.weight` the left one, `1.bias` the bias. Each still answers
`.weight` (the product) and `.bias`, for code that reads a layer's attributes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from rankpress.loading.product import multiply
from rankpress.names import Kind

PAIRS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class FactorisedLinear(nn.Sequential):
    """Linear(N, K, bias=False), then Linear(K, M)."""

    def __init__(
        self, right_KN: nn.Parameter, left_MK: nn.Parameter, bias: nn.Parameter | None
    ) -> None:
        super().__init__(_linear(right_KN, None), _linear(left_MK, bias))
        self.in_features, self.out_features = right_KN.shape[1], left_MK.shape[0]

    @property
    def weight(self) -> Tensor:
        return multiply(Kind.MATRIX, (self.out_features, self.in_features), *_factors(self))

    @property
    def bias(self) -> Tensor | None:
        return _bias(self)


class FactorisedConv(nn.Sequential):
    """A convolution to K channels, then one to M. Channel form: the kernel is the first's and the
    second is 1 x 1. Spatial form: 1 x kw, then kh x 1."""

    def __init__(
        self,
        dense: _ConvNd,
        kind: Kind,
        right: nn.Parameter,
        left: nn.Parameter,
        bias: nn.Parameter | None,
    ) -> None:
        ones = (1,) * (right.dim() - 2)
        options = (dense.stride, dense.padding, dense.dilation)
        if kind is Kind.CONVOLUTION_SPATIAL:
            first = tuple(
                _axis(v, 1, neutral) for v, neutral in zip(options, (1, 0, 1), strict=True)
            )
            second = tuple(
                _axis(v, 0, neutral) for v, neutral in zip(options, (1, 0, 1), strict=True)
            )
        else:
            first, second = options, (ones, (0,) * len(ones), ones)
        mode = dense.padding_mode
        super().__init__(_conv(right, None, first, mode), _conv(left, bias, second, mode))
        self._kind = kind
        self._shape = tuple(dense.weight.shape)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding"):
            setattr(self, name, getattr(dense, name))
        self.dilation, self.groups, self.padding_mode = dense.dilation, dense.groups, mode

    @property
    def weight(self) -> Tensor:
        return multiply(self._kind, self._shape, *_factors(self))

    @property
    def bias(self) -> Tensor | None:
        return _bias(self)


class FactorisedEmbedding(nn.Module):
    """Rows of the left factor are looked up, then multiplied by the right one: an Embedding(V, K)
    and a matrix [K, N]."""

    def __init__(self, dense: nn.Embedding, right_KN: nn.Parameter, left_VK: nn.Parameter) -> None:
        super().__init__()
        self.add_module("0", Factor(right_KN))
        lookup = nn.Embedding(
            left_VK.shape[0],
            left_VK.shape[1],
            padding_idx=dense.padding_idx,
            scale_grad_by_freq=dense.scale_grad_by_freq,
            sparse=dense.sparse,
            device="meta",
        )
        lookup.weight = left_VK
        self.add_module("1", lookup)
        self.num_embeddings, self.embedding_dim = left_VK.shape[0], right_KN.shape[1]
        self.padding_idx = dense.padding_idx

    @property
    def weight(self) -> Tensor:
        return multiply(Kind.MATRIX, (self.num_embeddings, self.embedding_dim), *_factors(self))

    def forward(self, indices: Tensor) -> Tensor:
        looked_up: Tensor = self._modules["1"](indices)  # type: ignore[misc]
        right_KN, _ = _factors(self)
        return looked_up @ right_KN


class FactorisedConv1D(nn.Module):
    """transformers' Conv1D, whose weight is stored [in, out]: x @ left [in, K] @ right [K, out]."""

    def __init__(
        self, right_KN: nn.Parameter, left_MK: nn.Parameter, bias: nn.Parameter | None
    ) -> None:
        super().__init__()
        self.add_module("0", Factor(right_KN))
        self.add_module("1", Factor(left_MK, bias))
        self.nx, self.nf = left_MK.shape[0], right_KN.shape[1]

    @property
    def weight(self) -> Tensor:
        return multiply(Kind.MATRIX, (self.nx, self.nf), *_factors(self))

    @property
    def bias(self) -> Tensor | None:
        return _bias(self)

    def forward(self, x: Tensor) -> Tensor:
        right_KN, left_MK = _factors(self)
        return functional.linear(x @ left_MK, right_KN.T, self.bias)


class Factor(nn.Module):
    """Holds one factor under the file's key; what is done with it is its parent's."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.register_parameter("bias", bias)


class LowRank(nn.Module):
    """Parametrisation (torch.nn.utils.parametrize) that multiplies back at each use: for layers
    that have no two-layer form."""

    def __init__(self, kind: Kind, shape: tuple[int, ...], right: Tensor, left: Tensor) -> None:
        super().__init__()
        self._kind, self._shape = kind, shape
        self._initial: tuple[Tensor, Tensor] | None = (right, left)

    def forward(self, right: Tensor, left: Tensor) -> Tensor:
        return multiply(self._kind, self._shape, right, left)

    def right_inverse(self, _weight: Tensor) -> tuple[Tensor, Tensor]:
        """Called once, when it is registered: the factors come from the file."""
        if self._initial is None:
            raise NotImplementedError("a factorised weight cannot be assigned")
        initial, self._initial = self._initial, None
        return initial


def _factors(module: nn.Module) -> tuple[Tensor, Tensor]:
    right, left = module.get_submodule("0").weight, module.get_submodule("1").weight
    assert isinstance(right, Tensor)
    assert isinstance(left, Tensor)
    return right, left


def _bias(module: nn.Module) -> Tensor | None:
    bias = module.get_submodule("1").bias
    assert bias is None or isinstance(bias, Tensor)
    return bias


def _linear(weight_MN: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(weight_MN.shape[1], weight_MN.shape[0], bias=False, device="meta")
    layer.weight = weight_MN
    layer.bias = bias  # type: ignore[assignment]  # None is what bias=False stores
    return layer


def _conv(
    weight: nn.Parameter, bias: nn.Parameter | None, options: tuple[Any, ...], padding_mode: str
) -> nn.Module:
    stride, padding, dilation = options
    out_channels, in_channels, *kernel = weight.shape
    layer = PAIRS[len(kernel)](
        in_channels,
        out_channels,
        tuple(kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        bias=False,
        padding_mode=padding_mode,
        device="meta",
    )
    layer.weight, layer.bias = weight, bias
    assert isinstance(layer, nn.Module)
    return layer


def _axis(value: Any, axis: int, neutral: int) -> Any:
    """An option of a 2-D convolution on one axis alone, neutral on the other. The padding words
    'same' and 'valid' hold for each axis by itself."""
    if isinstance(value, str):
        return value
    return tuple(v if i == axis else neutral for i, v in enumerate(value))
