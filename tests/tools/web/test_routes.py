"""OpenAPI describes exactly what the server answers."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from mycomesh.tools.web.api import Api
from mycomesh.tools.web.routes import Parameter, Route, document, matches
from mycomesh.tools.web.server import ALL_ROUTES, Console

ROOT = Path(__file__).parents[3]


def handler_of(route):
    return getattr(Console, f"_answer_{route.name}", None) or getattr(Api, route.name, None)


@pytest.mark.parametrize("route", ALL_ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_has_a_handler_with_its_parameters(route):
    taken = set(inspect.signature(handler_of(route)).parameters) - {"self", "request", "_request"}
    assert taken == {part.strip("{}.") for part in route.path.split("/") if part.startswith("{")}
    assert inspect.getdoc(handler_of(route)) or handler_of(route).__name__.startswith("_")


def test_no_handler_is_without_a_route():
    answers = {name for name in vars(Api) if not name.startswith("_")}
    answers |= {name.removeprefix("_answer_") for name in vars(Console) if name.startswith("_answer_")}
    assert answers == {route.name for route in ALL_ROUTES}


def test_document_lists_every_route_of_the_api():
    paths = document(ALL_ROUTES)["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert described == {
        (route.method, route.path.replace("...}", "}")) for route in ALL_ROUTES if route.path.startswith("/api/")
    }


def test_document_in_docs_is_that_of_the_server():
    text = json.dumps(document(ALL_ROUTES), indent=2) + "\n"
    assert (ROOT / "docs" / "openapi.json").read_text() == text, "python -m tools.web.server > docs/openapi.json"


def test_every_parameter_is_read_by_its_handler():
    for route in ALL_ROUTES:
        source = inspect.getsource(handler_of(route))
        for each in (*route.parameters, *route.body):
            assert f'"{each.name}"' in source or each.place == "path", f"{route.name} does not read {each.name}"


@pytest.mark.parametrize(
    ("path", "given", "found"),
    [
        ("/api/tables", "/api/tables", {}),
        ("/api/tables", "/api/tables/", None),
        ("/api/tables/{table}", "/api/tables/a b", {"table": "a b"}),
        ("/api/tables/{table}", "/api/tables/a/b", None),
        ("/api/why/{table}/{key...}", "/api/why/t/a/b", {"table": "t", "key": "a/b"}),
        ("/api/tables/{table}", "/api/tables/a%2Fb", {"table": "a/b"}),
        ("/api/why/{table}/{key...}", "/api/why/%C3%A4/a%2Fb/c", {"table": "ä", "key": "a/b/c"}),
        ("/api/why/{table}/{key...}", "/api/why/t", None),
    ],
)
def test_paths_match_by_their_parts(path, given, found):
    route = Route("GET", path, "x", "", "", (Parameter("table", ""),))
    assert matches(route, given) == found
