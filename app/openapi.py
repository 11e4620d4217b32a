"""The OpenAPI document, with what the framework cannot be told in a decorator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI


def install(app: FastAPI) -> None:
    """Without keys the service needs none: the scheme is one of two alternatives."""
    original: Callable[[], dict[str, Any]] = app.openapi

    def document() -> dict[str, Any]:
        found = original()
        for methods in found["paths"].values():
            for operation in methods.values():
                if "security" in operation and {} not in operation["security"]:
                    operation["security"].append({})
        return found

    app.openapi = document  # type: ignore[method-assign]


def links_by_id(parameter: str, *operations: str) -> dict[str, Any]:
    """Where the id in an answer leads: OpenAPI links, for tools that follow them."""
    return {
        operation: {"operationId": operation, "parameters": {parameter: "$response.body#/id"}}
        for operation in operations
    }
