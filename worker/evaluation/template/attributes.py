"""Attributes of a node, by their type."""

from __future__ import annotations

from onnx import NodeProto


def integer(node: NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def real(node: NodeProto, name: str, default: float) -> float:
    return next((float(a.f) for a in node.attribute if a.name == name), default)


def integers(node: NodeProto, name: str) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), [])


def text(node: NodeProto, name: str) -> str:
    return next((a.s.decode("utf-8", "replace") for a in node.attribute if a.name == name), "")
