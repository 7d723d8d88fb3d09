"""The routes of the HTTP API, each with its parameters and what it answers."""

from __future__ import annotations

from mycomesh.tools.web.database import QUERY_S_MAX, ROWS_MAX
from mycomesh.tools.web.routes import Parameter, Route

__all__ = ["EVENTS", "LIMIT", "ROUTES"]

EVENTS = "text/event-stream"
LIMIT = 100  # rows of an answer, unless the client asks for more
_TABLE = Parameter("table", "the name of the table", place="path")
_LIMIT = Parameter("limit", f"at most so many rows, up to {ROWS_MAX:,}; default {LIMIT}", "integer")
ROUTES = (
    Route("GET", "/api/status", "status", "The node, its peers and its tables", "as `mycomesh status --json`"),
    Route("GET", "/healthz", "health", "Whether the node does its work", "200, or 503 and why", public=True),
    Route("GET", "/api/peers", "peers", "The other members of the mesh", "as `mycomesh peers --json`"),
    Route("GET", "/api/tables", "tables", "All tables with their columns", "a list; `layer` says where positions are"),
    Route(
        "GET",
        "/api/tables/{table}",
        "rows",
        "Rows of one table",
        "columns, rows, the rows' keys, and whether there are more",
        (
            _TABLE,
            Parameter("where", "a condition in SQL"),
            Parameter("order", "the column to sort by; default: the key"),
            Parameter("desc", "1 for the greatest first", "integer"),
            _LIMIT,
            Parameter("offset", "skip so many rows", "integer"),
            Parameter("format", "json (default), csv or geojson"),
        ),
        ("application/json", "text/csv", "application/geo+json"),
    ),
    Route(
        "GET",
        "/api/why/{table}/{key...}",
        "why",
        "The writer and time of each cell of a row, and the writes that lost",
        "as `mycomesh why --json`",
        (_TABLE, Parameter("key", "the key as text; a JSON array of several columns", place="path")),
    ),
    Route(
        "GET",
        "/api/changes",
        "changes",
        "Follow the committed changes of a table, local and remote",
        "server-sent events: `change` with the id of the change and JSON as `mycomesh tail --json` prints; `ready` once the"
        " stream has begun; `reset` where changes were missed",
        (
            Parameter("table", "the name of the table", required=True),
            Parameter("cursor", "a name under which the file remembers how far this reader has acknowledged"),
            Parameter("from", "now (default), or start: with the rows that are there"),
            Parameter("once", "1: end when everything committed so far was sent; JSON lines, no events", "integer"),
        ),
        (EVENTS, "application/x-ndjson"),
    ),
    Route(
        "POST",
        "/api/cursors/{name}",
        "acknowledge",
        "Move a cursor behind a change that it has sent",
        "how many changes it moved by; 409 if that change does not wait for this: read from the cursor again",
        (Parameter("name", "the name of the cursor", place="path"),),
        body=(Parameter("id", "the id of the last change that is done, and of all before it", required=True),),
    ),
    Route(
        "GET",
        "/api/live",
        "live",
        "Follow the node, the mesh and some tables in one stream",
        "server-sent events: `status`, `notice`, `changes` with a list of changes, `reset`",
        (Parameter("table", "the name of a table; as often as there are tables", many=True),),
        (EVENTS,),
    ),
    Route(
        "GET",
        "/api/query",
        "query",
        "The answer of one SELECT",
        f"columns and rows, at most {ROWS_MAX:,} within {QUERY_S_MAX:g} s; with Accept: {EVENTS} again after each change",
        (Parameter("sql", "the statement", required=True), _LIMIT, Parameter("format", "json (default) or csv")),
        ("application/json", "text/csv", EVENTS),
    ),
    Route(
        "POST",
        "/api/execute",
        "execute",
        "Run one statement that may write",
        "columns and rows, or the number of rows that changed",
        body=(
            Parameter("sql", "the statement", required=True),
            Parameter("values", "values for its parameters", "array"),
        ),
        writes=True,
    ),
    Route(
        "GET", "/api/conflicts", "conflicts", "Concurrent writes that lost", "as `mycomesh conflicts --json`", (_LIMIT,)
    ),
    Route("GET", "/api/parked", "parked", "Rows of peers that a constraint refuses", "a list, the oldest first"),
    Route("GET", "/api/dead", "dead", "Changes that readers have set aside", "as `mycomesh dead --json`"),
    Route(
        "GET", "/api/flows", "flows", "The flows of config.toml", "a list: section, tables, and what is wrong with it"
    ),
    Route(
        "POST",
        "/api/flows",
        "stepFlow",
        "Add, change, pause, test or remove a flow, as `mycomesh flow` does",
        "what was done, the command that it was, and the step that takes it back",
        body=(
            Parameter("action", "add, edit, pause, resume, rollback, remove or test", required=True),
            Parameter("name", "the flow", required=True),
            Parameter("section", "texts under on, run, into, where, from", "object"),
            Parameter("sample", "of test: so many rows, up to 100; default 10", "integer"),
        ),
        writes=True,
    ),
    Route(
        "POST",
        "/api/restore",
        "restore",
        "Write the losing side of a conflict again",
        "what was done, and the command that does the same",
        body=(
            Parameter("conflict", "its id", required=True),
            Parameter("undo", "undo an earlier restore", "boolean"),
            Parameter("as_new_row", "keep the winner, and write another row", "boolean"),
        ),
        writes=True,
    ),
    Route(
        "POST",
        "/api/parked/retry",
        "retryParked",
        "Try the parked rows of a table again",
        "what was done, and the command that does the same",
        body=(Parameter("table", "the name of the table", required=True),),
        writes=True,
    ),
    Route(
        "POST",
        "/api/dead",
        "decideDead",
        "Give a change to its readers again, or forget it",
        "what was done, and the command that does the same",
        body=(Parameter("retry", "its number", "integer"), Parameter("drop", "its number", "integer")),
        writes=True,
    ),
)
