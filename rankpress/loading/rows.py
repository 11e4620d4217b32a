"""What goes into a layer and comes out of it, as rows: a row each time its weight is applied."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

MOST_ELEMENTS = 1 << 24  # of unfolded patches at once


def input_rows(
    module: nn.Module, x: torch.Tensor, mask: torch.Tensor | None
) -> Iterator[torch.Tensor]:
    """Rows [*, N] that the weight's rows are multiplied with: features, or patches [in, *kernel] of
    a convolution, some samples at a time. `mask` [B, T] leaves padding out of features [B, T, N].
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        yield from _patches(module, x)
    else:
        yield _unmasked(x, mask)


def output_rows(module: nn.Module, y: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Rows [*, M] of what comes out, or of gradients by it, in the order of `input_rows`."""
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        spatial = 2 if isinstance(module, nn.Conv2d) else 1
        channels_last = y.movedim(y.dim() - 1 - spatial, -1)
        return channels_last.reshape(-1, channels_last.shape[-1])
    return _unmasked(y, mask)


def masks(mask: torch.Tensor | None, x: torch.Tensor, leading: int) -> bool:
    """Whether a mask [B, T] speaks of `x`, which has so many axes before its features."""
    return mask is not None and leading == 2 and x.shape[:2] == mask.shape


def _unmasked(x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return x[mask] if masks(mask, x, x.dim() - 1) else x.reshape(-1, x.shape[-1])


def _patches(module: nn.Conv1d | nn.Conv2d, x: torch.Tensor) -> Iterator[torch.Tensor]:
    one_dimensional = isinstance(module, nn.Conv1d)
    if x.dim() == (2 if one_dimensional else 3):
        x = x.unsqueeze(0)
    # The same margins as the layer's own forward: zeros, or what its padding mode repeats.
    margins = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = functional.pad(x.detach(), list(margins), mode=mode)
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if one_dimensional:
        x = x.unsqueeze(2)
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    width = module.weight[0].numel()
    step = max(1, MOST_ELEMENTS // max(width * x[0, 0].numel(), 1))
    for start in range(0, x.shape[0], step):
        patches = functional.unfold(
            x[start : start + step], kernel, dilation=dilation, stride=stride
        )
        yield patches.transpose(1, 2).reshape(-1, width)
