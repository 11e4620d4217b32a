"""Small networks of convolutions for 28 x 28 grey images, of the kinds that the paper compresses:
so small that one core trains one in a few minutes."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

CLASSES = 10


def vgg() -> nn.Sequential:
    """VGG's pattern: 3 x 3 convolutions between poolings, then two matrices. 0.2 M weights."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    n = 1
    for stage, widths in enumerate(((16,), (32, 32), (64, 64)), start=1):
        for i, m in enumerate(widths, start=1):
            parts[f"conv{stage}_{i}"] = nn.Conv2d(n, m, 3, padding=1)
            parts[f"relu{stage}_{i}"] = nn.ReLU()
            n = m
        parts[f"pool{stage}"] = nn.MaxPool2d(2)
    parts["flat"] = nn.Flatten()
    parts["fc1"] = nn.Linear(n * 3 * 3, 256)
    parts["relu_fc1"] = nn.ReLU()
    parts["fc2"] = nn.Linear(256, CLASSES)
    return nn.Sequential(parts)


class Block(nn.Module):
    """ResNet's basic block: two convolutions and the way round them."""

    def __init__(self, n: int, m: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n, m, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(m)
        self.conv2 = nn.Conv2d(m, m, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(m)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or n != m:
            conv = nn.Conv2d(n, m, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(m)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


def resnet() -> nn.Sequential:
    """ResNet's pattern: three stages of two basic blocks, 16, 32 and 64 wide. 0.2 M weights."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False),
        bn=nn.BatchNorm2d(16),
        relu=nn.ReLU(),
    )
    n = 16
    for stage, m in enumerate((16, 32, 64), start=1):
        parts[f"block{stage}_1"] = Block(n, m, 1 if stage == 1 else 2)
        parts[f"block{stage}_2"] = Block(m, m, 1)
        n = m
    parts["pool"] = nn.AdaptiveAvgPool2d(1)
    parts["flat"] = nn.Flatten()
    parts["fc"] = nn.Linear(n, CLASSES)
    return nn.Sequential(parts)
