"""`GET /docs`: the API for people, written from its OpenAPI document.

It is one page without scripts and without content from other hosts. It needs a key, like all paths
except the two for health: what a server can do concerns only its users.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

router = APIRouter()

STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c1e21; background: #fff }
h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; font: 600 1.1rem ui-monospace, monospace }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: left }
code { font-family: ui-monospace, monospace }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #16181b }
  h2, th, td { border-color: #444 } a { color: #8ab4f8 } }
"""
DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = f"default-src 'none'; frame-ancestors 'none'; style-src 'sha256-{DIGEST}'"
REFERENCE: Final = "#/components/schemas/"


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    page = "\n".join(_page(request.app.openapi()))
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return Response(page, media_type="text/html", headers=headers)


def _page(openapi: dict[str, Any]) -> Iterator[str]:
    told = openapi["info"]
    title = escape(f"{told['title']} {told['version']}: HTTP API")
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
    yield f"<body><h1>{title}</h1><p>{_prose(told['description'])}</p>"
    yield '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>'
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    yield _list(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name, _ in operations)
    for name, operation in operations:
        yield from _operation(name, operation)
    for name, schema in sorted(openapi["components"]["schemas"].items()):
        if "properties" in schema:
            yield from _schema(name, schema)
    yield "</body></html>"


def _operation(name: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{_anchor(name)}">{escape(name)}</h2>'
    yield f"<p>{_prose(operation.get('description', ''))}</p>"
    parameters = operation.get("parameters", ())
    if parameters:
        yield _table(
            ("parameter", "in", "type", "meaning"),
            (
                (_code(one["name"]), one["in"], _kind(one["schema"]), _meaning(one))
                for one in parameters
            ),
        )
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: {_code(media_type)}, {_kind(content['schema'])}</p>"
    yield _table(
        ("status", "type", "response"),
        (
            (str(status), _types(answer), _prose(answer["description"]))
            for status, answer in operation["responses"].items()
        ),
    )


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{_anchor(name)}">{escape(name)}</h2>'
    yield f"<p>{_prose(schema.get('description', ''))}</p>"
    yield _table(
        ("field", "type", "meaning"),
        (
            (_code(field), _kind(told), _meaning(told))
            for field, told in schema["properties"].items()
        ),
    )


def _kind(schema: dict[str, Any]) -> str:
    """The type, with links to the shapes that it consists of."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REFERENCE)
        return f'<a href="#{_anchor(name)}">{escape(name)}</a>'
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(map(_kind, schema[several]))
    if "enum" in schema:
        return " or ".join(_code(str(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type") or "any"))


def _meaning(told: dict[str, Any]) -> str:
    schema = told.get("schema", told)
    words = [_prose(told.get("description") or schema.get("description") or "")]
    if schema.get("default") is not None:
        words.append(f"Default: {_code(str(schema['default']))}.")
    return " ".join(words)


def _types(answer: dict[str, Any]) -> str:
    return "<br>".join(
        f"{_code(media_type)} {_kind(content.get('schema', {}))}"
        for media_type, content in answer.get("content", {}).items()
    )


def _prose(text: str) -> str:
    """Plain text with paragraphs and `code`."""
    parts = escape(text).split("`")
    marked = "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
    return marked.replace("\n\n", "</p><p>")


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _anchor(name: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in name)


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{one}</th>" for one in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _list(items: Iterator[str]) -> str:
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
