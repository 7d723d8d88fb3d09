"""The description of the HTTP API: each route with its parameters, as one table from which OpenAPI is written.

Invariant: the server answers exactly these routes (tests/tools/web/test_routes.py compares them, and docs/openapi.json).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from mycomesh.mesh.node.version import __version__

__all__ = ["Parameter", "Route", "document", "matches"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the query string, or with `place` "path" of the path; `kind` is a type of JSON Schema."""

    name: str
    what: str
    kind: str = "string"
    place: str = "query"
    required: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """One route. `{name}` in the path takes the rest up to the next slash, `{name...}` all of the rest.

    answer: what a program gets, in a sentence. forms: content types besides JSON. body: fields of the JSON that it sends.
    writes: it needs the token and `--allow-writes`. public: it has no data of the file, and needs no token.
    """

    method: str
    path: str
    name: str
    summary: str
    answer: str
    parameters: Sequence[Parameter] = ()
    forms: Sequence[str] = ("application/json",)
    body: Sequence[Parameter] = ()
    writes: bool = False
    public: bool = False


def matches(route: Route, path: str) -> dict[str, str] | None:
    """Return the values of the path's parameters, None if the route has another path; `path` is still quoted."""
    wanted, given = route.path.split("/"), path.split("/")
    found: dict[str, str] = {}
    for number, part in enumerate(wanted):
        if number >= len(given):
            return None
        if part.endswith("...}"):
            found[part[1:-4]] = unquote("/".join(given[number:]))
            return found
        if part.startswith("{"):
            found[part[1:-1]] = unquote(given[number])
        elif part != given[number]:
            return None
    return found if len(given) == len(wanted) else None


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Return the description of the routes in OpenAPI 3.1; routes outside of /api are the page's own files."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.path.startswith("/api/"):
            paths.setdefault(route.path.replace("...}", "}"), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mycomesh web console",
            "version": __version__,
            "description": (
                'Reads a node\'s file and mesh, and follows their changes. A blob is {"base64": TEXT}; an integer beyond'
                ' 2^53 is {"integer": TEXT}, an infinite number {"real": TEXT}, text that is not UTF-8 {"text in base64": TEXT},'
                ' a cell that is longer than 16 MiB {"too long": BYTES}.'
            ),
        },
        "security": [{"token": []}, {}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error", "code"],
                    "properties": {"error": {"type": "string"}, "code": {"type": "string"}},
                }
            },
        },
        "paths": paths,
    }


def _operation(route: Route) -> dict[str, Any]:
    schema: dict[str, Any] = {form: {"schema": {}} for form in route.forms}
    failure = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {
            "200": {"description": route.answer, "content": schema},
            "default": {"description": "One line that says what is wrong, with its code.", "content": failure},
        },
    }
    if route.parameters:
        operation["parameters"] = [
            {
                "name": each.name,
                "in": each.place,
                "description": each.what,
                "required": each.required or each.place == "path",
                "schema": {"type": "array", "items": {"type": each.kind}} if each.many else {"type": each.kind},
            }
            for each in route.parameters
        ]
    if route.body:
        operation["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": [each.name for each in route.body if each.required],
                        "properties": {each.name: {"type": each.kind, "description": each.what} for each in route.body},
                    }
                }
            },
        }
    if route.writes:
        operation["security"] = [{"token": []}]
        operation["description"] = "Needs the token, and a console that was started with --allow-writes."
    return operation
