"""From an OpenAPI 3.1 document to one page of Markdown: pure text, nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
METHODS = ("get", "head", "post", "put", "patch", "delete")
TITLES = {"uploads": "Uploads", "jobs": "Jobs", "artifacts": "Results", "service": "The service"}


def reference(document: Json) -> str:
    """Operations by tag, then every schema that they name."""
    lines: list[str] = []
    operations = list(_operations(document))
    for tag in dict.fromkeys(tag for tag, *_ in operations):
        lines += [f"## {TITLES.get(tag, tag.capitalize())}", ""]
        for its, method, path, operation in operations:
            if its == tag:
                lines += _operation(method, path, operation)
    lines += ["## Schemas", ""]
    for name, schema in sorted(document.get("components", {}).get("schemas", {}).items()):
        lines += _schema(name, schema)
    return "\n".join(lines) + "\n"


def _operations(document: Json) -> Iterator[tuple[str, str, str, Json]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                operation = item[method]
                shared = item.get("parameters", [])
                merged = {**operation, "parameters": [*shared, *operation.get("parameters", [])]}
                yield (operation.get("tags") or ["other"])[0], method.upper(), path, merged


def _operation(method: str, path: str, operation: Json) -> list[str]:
    lines = [f"### {method} {path} {{ #{operation['operationId']} }}", ""]
    lines += [f"**{operation['summary']}**", ""] if operation.get("summary") else []
    lines += [operation["description"], ""] if operation.get("description") else []
    if operation["parameters"]:
        lines += ["| parameter | in | type | |", "|---|---|---|---|"]
        for p in operation["parameters"]:
            name = f"`{p['name']}`{' (required)' if p.get('required') else ''}"
            text = p.get("description") or p.get("schema", {}).get("description", "")
            lines.append(f"| {name} | {p['in']} | {_type(p.get('schema', {}))} | {_cell(text)} |")
        lines.append("")
    if body := operation.get("requestBody"):
        kinds = (f"`{kind}`: {_type(c.get('schema', {}))}" for kind, c in body["content"].items())
        lines += ["Body: " + "; ".join(kinds), ""]
    lines += ["| answer | body | |", "|---|---|---|"]
    for status, answer in sorted(operation["responses"].items()):
        content = answer.get("content", {})
        kinds = ", ".join(f"`{k}` {_type(c.get('schema', {}))}".strip() for k, c in content.items())
        lines.append(f"| {status} | {kinds} | {_cell(answer.get('description', ''))} |")
    return [*lines, ""]


def _schema(name: str, schema: Json) -> list[str]:
    lines = [f"### {name} {{ #schema-{_slug(name)} }}", ""]
    lines += [schema["description"], ""] if schema.get("description") else []
    if "enum" in schema:
        return [*lines, ", ".join(f"`{value}`" for value in schema["enum"]), ""]
    properties = schema.get("properties", {})
    if not properties:
        return [*lines, _type(schema), ""]
    required = set(schema.get("required", ()))
    lines += ["| field | type | |", "|---|---|---|"]
    for field, value in properties.items():
        mark = " (required)" if field in required else ""
        text = value.get("description", "")
        if "default" in value and value["default"] not in (None, [], {}):
            text = f"{text} Default: `{value['default']}`".strip()
        lines.append(f"| `{field}`{mark} | {_type(value)} | {_cell(text)} |")
    return [*lines, ""]


def _type(schema: Json) -> str:
    """In words, other schemas as links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#schema-{_slug(name)})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(part) for part in schema[key]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "")
    if kind == "array":
        items = schema.get("items") or next(iter(schema.get("prefixItems", [])), {})
        return f"list of {_type(items) or 'anything'}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties']) or 'anything'}"
    words = [str(kind), *_bounds(schema)]
    return " ".join(w for w in words if w)


def _bounds(schema: Json) -> Iterator[str]:
    for key, sign in (
        ("exclusiveMinimum", "&gt;"),
        ("minimum", "≥"),
        ("exclusiveMaximum", "&lt;"),
        ("maximum", "≤"),
    ):
        if key in schema:
            yield f"{sign} {schema[key]:g}"
    if "format" in schema:
        yield f"({schema['format']})"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
