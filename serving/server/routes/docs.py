"""docs: a page of all routes with their fields, made from the OpenAPI description; it loads nothing from elsewhere."""

import html
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
code, pre {{ font: 14px/1.5 ui-monospace, monospace }} pre {{ white-space: pre-wrap }}
table {{ border-collapse: collapse }} td {{ padding: 0.1rem 1rem 0.1rem 0; vertical-align: top }}
summary {{ cursor: pointer; padding: 0.3rem 0 }}
</style></head><body><h1>{title} {version}</h1><p>{description}</p>
<p>Open a route for its fields. The whole description is in <a href="openapi.json">openapi.json</a>.</p>
{routes}</body></html>
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The page."""
    described = request.app.openapi()
    info = {name: html.escape(described["info"][name]) for name in ("title", "version", "description")}
    return HTMLResponse(_PAGE.format(**info, routes="\n".join(_routes(described))))


def _routes(described: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            head = f"<code><b>{method.upper()}</b> {html.escape(path)}</code> {html.escape(route.get('summary', ''))}"
            content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
            schema = _resolved(content.get("schema", {}), described)
            about = schema.get("description", route.get("description", ""))
            required = schema.get("required", ())
            fields = "".join(_row(name, each, name in required) for name, each in schema.get("properties", {}).items())
            table = f"<table>{fields}</table>" if fields else ""
            yield f"<details><summary>{head}</summary><pre>{html.escape(about)}</pre>{table}</details>"


def _row(name: str, field: Mapping[str, Any], required: bool) -> str:
    need = "required" if required else ""
    return f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(_kind(field))}</td><td>{need}</td></tr>"


def _kind(field: Mapping[str, Any]) -> str:
    """The type of a field, in words."""
    if "$ref" in field:
        return _name(field)
    if "anyOf" in field:
        return " or ".join(_kind(each) for each in field["anyOf"] if each.get("type") != "null")
    if "enum" in field or "const" in field:
        return ", ".join(map(str, field.get("enum", [field.get("const")])))
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    return str(field.get("type", "anything"))


def _name(field: Mapping[str, Any]) -> str:
    return field["$ref"].rpartition("/")[2]


def _resolved(schema: Mapping[str, Any], described: Mapping[str, Any]) -> Mapping[str, Any]:
    return described["components"]["schemas"][_name(schema)] if "$ref" in schema else schema
