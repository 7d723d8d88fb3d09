"""`mycomesh explain`: every code that the source can give has an entry, and every entry is given somewhere."""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path

import pytest

from mycomesh.mesh.node.control.client import decode_line
from mycomesh.mesh.node.errors import NodeError, RefusedError
from mycomesh.sync.errors import DatabaseBusyError
from mycomesh.tools import exits
from mycomesh.tools.cli import main
from mycomesh.tools.codes import CODES

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for package in ("mesh", "sync", "tools", "simulations") for path in (ROOT / package).rglob("*.py")
)
TREES = {"Exception", "ValueError"}
# Raised and caught inside one module, or about the source itself: no person meets them.
INNER = {
    "CotError",  # bytes of a client, which are counted
    "UnsupportedTable",
    "_UndoError",
    "_RefusedError",
    "RefusalError",
    "BenchError",
    "ReleaseError",
    "BuildError",
    "StaleMutationError",
    # A bridge turns these into its state, a notice or a dead letter.
    "BodyError",
    "StreamError",  # it ends a stream over NATS, as a lost connection does
    "NatsConnectError",  # a mailbox, a bridge or a link names it as its own
    "ModelError",
    "TensorError",
    "FlowStoppedError",
    "FunctionError",
    "MovedError",
    "AwayError",
    "RowError",
    "UnfitError",
    "_LostError",
    "LinkError",
    "_LineError",
    "SchemeError",
    "TopicError",
    "WrongRowError",
}
SAYS = {"Notice", "notify", "say", "_link_notice", "_tell"}
PASSES_ON = {
    "mesh/node/children.py",
    "mesh/node/core.py",
    "sync/exchange/turn.py",
}  # hand on a notice of somebody else's


@functools.cache
def trees():
    return {path: ast.parse(path.read_text()) for path in SOURCES}


@functools.cache
def nodes():
    """Return [(path, node)] of every class and call of the source: the tests go through them again and again."""
    return [
        (path, node)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.Call)
    ]


def error_classes():
    """{name: its own code or None} of every exception class, and the bases of each."""
    found, bases = {}, {}
    for _, node in nodes():
        if isinstance(node, ast.ClassDef):
            named = [base.id for base in node.bases if isinstance(base, ast.Name)]
            if any(name in TREES or name.endswith("Error") for name in named):
                codes = [
                    item.value.value
                    for item in node.body
                    if isinstance(item, ast.Assign) and item.targets[0].id == "code"
                ]
                found[node.name] = codes[0] if codes else None
                bases[node.name] = named[0]
    return found, bases


def given():
    """Every code that the source can give: of classes, of certificate reasons, of notices."""
    found, _ = error_classes()
    codes = {code for code in found.values() if code}
    for path, node in nodes():
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        first = node.args[0] if node.args else None
        if name == "CertificateError":
            assert isinstance(first, ast.Constant), f"{path}:{node.lineno}: a reason is a literal"
            codes.add(f"certificate.{first.value}")
        elif name in SAYS and isinstance(first, ast.Constant) and "." in str(first.value) and " " not in first.value:
            codes.add(first.value)
        elif name == "Notice":
            where = str(path.relative_to(ROOT))
            assert where in PASSES_ON, f"{where}:{node.lineno}: a notice's event is a literal"
    return codes


@pytest.mark.slow
def test_every_error_class_has_or_inherits_a_code():
    found, bases = error_classes()
    for name, code in found.items():
        while code is None and bases.get(name) in found:
            name = bases[name]  # noqa: PLW2901
            code = found[name]  # noqa: PLW2901
        assert code or name in INNER or name in ("CertificateError", "RefusedError"), f"{name} has no code"


@pytest.mark.slow
def test_every_code_of_the_source_is_explained():
    missing = given() - set(CODES)
    assert not missing, f"tell in tools/codes.py what these mean, why they come and what to do: {sorted(missing)}"


def test_every_exit_code_is_explained():
    codes = {str(value) for name, value in vars(exits).items() if name.isupper()}
    assert codes <= set(CODES)


@pytest.mark.slow
def test_nothing_is_explained_that_nobody_gives():
    stale = {code for code in CODES if not code.isdecimal()} - given()
    assert not stale


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.code)
def test_entry_says_what_and_why_in_one_line_each(code):
    for text in (code.what, code.why):
        assert text
        assert "\n" not in text
        assert not text.endswith(".")
    assert not re.search(r"\b(line|message) says|\bread that line", f"{code.why} {code.remedy}")
    for command in re.findall(r"mycomesh ([a-z][a-z-]*)", f"{code.why} {code.remedy}"):
        assert main(["help", command]) == exits.DONE


def test_an_error_shows_its_code_and_explain_takes_it(tmp_path, capsys):
    assert main(["--home", str(tmp_path), "status"]) == exits.NO_NODE
    line = capsys.readouterr().err
    code = re.search(r"\[(.+)\]$", line.strip())[1]
    assert main(["explain", code]) == exits.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["node.none", "why", "to do"]
    assert main(["explain", "69", "--json"]) == exits.DONE
    assert [sorted(each) for each in json.loads(capsys.readouterr().out)] == [["code", "remedy", "what", "why"]]
    assert main(["explain"]) == exits.DONE
    assert all(code in capsys.readouterr().out for code in ("batch.refused",))


def test_an_unknown_code_names_its_neighbours(capsys):
    assert main(["explain", "database.bussy"]) == exits.USAGE
    error = capsys.readouterr().err
    assert "database.busy" in error
    assert len(error.splitlines()) == 1


def test_error_keeps_its_code_on_its_way_to_person():
    assert NodeError.of(DatabaseBusyError("busy")).code == "database.busy"
    assert RefusedError("no", "decision.refused").code == "decision.refused"
    assert decode_line(b'{"ok": false, "code": "x"}\n')["code"] == "x"
