"""Flows of other members: what config.toml accepts, and what no member may ask for."""

from __future__ import annotations

import contextlib

import apsw
import pytest

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.home import Home
from mycomesh.tools.flows.accepted import (
    MEMORY_MIB_MAX,
    TIMEOUT_S_MAX,
    Acceptance,
    Shared,
    accepted_flows,
    read_accepted,
    shared_flow,
    write_accepted,
)
from mycomesh.tools.flows.settings import load, load_all, parse
from mycomesh.tools.flows.sql_function import SHARED_S_MAX, FunctionError, SqlFunction

SECTION = {"on": "drones", "run": "sql: SELECT id AS drone FROM new", "into": "alerts"}


@pytest.fixture
def home(tmp_path):
    home = Home.locate(tmp_path, {})
    home.state.mkdir(parents=True, exist_ok=True)

    def write(text):
        home.config_file.write_text(text)
        home.config_file.chmod(0o600)
        return home

    return write


def test_flows_of_accepted_members_are_found_by_name(home):
    here = home('[flows]\naccept = ["alpha"]\n[flow.own]\non = "a"\nrun = "sql: INSERT INTO b SELECT * FROM new"\n')
    write_accepted(
        here, [Shared("low", "alpha", SECTION), Shared("of", "bravo", SECTION), Shared("own", "alpha", SECTION)]
    )
    assert [(each.name, each.author) for each in accepted_flows(here)] == [("low", "alpha")]
    assert load(here, "low").into == "alerts"
    assert [each.name for each in load_all(here)] == ["own", "low"]
    assert load(here, "own").author == ""
    home("[flows]\n")
    with pytest.raises(ConfigError, match="no section"):
        load(here, "low")


def test_everybody_has_to_be_known(home):
    here = home('[flows]\naccept = ["*"]\n')
    write_accepted(here, [Shared("low", "", SECTION), Shared("of", "bravo", SECTION)])
    assert [each.name for each in accepted_flows(here)] == ["of"]
    (here.state / "accepted-flows").write_text('[["a"], 7]')
    assert read_accepted(here) == []


def test_a_cycle_with_own_flows_is_refused(home):
    here = home(
        '[flows]\naccept = ["alpha"]\n[flow.own]\non = "alerts"\nrun = "sql: INSERT INTO drones SELECT * FROM new"\n'
    )
    write_accepted(here, [Shared("low", "alpha", SECTION)])
    with pytest.raises(ConfigError, match="comes back to drones"):
        load(here, "low")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[flows]\naccept = "alpha"\n', r"\[flows\] accept must be a list of texts"),
        ("[flows]\nallow = []\n", r"\[flows\] unknown key 'allow'; known are accept, hosts"),
        ("flows = 7\n", "'flows' must be a table"),
    ],
)
def test_a_section_that_cannot_be_is_refused(home, text, said):
    with pytest.raises(ConfigError, match=said):
        Acceptance.load(home(text))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"run": "python: os:system"}, "python: runs only from this node's own config.toml"),
        ({"run": "exec: rm -r /"}, "exec: runs only from this node's own config.toml"),
        ({"run": "https://elsewhere/x"}, "elsewhere is not among the hosts"),
        ({"run": "https://good:81/x"}, "good:81 is not among the hosts"),
        ({"run": "https://good:80/x", "ca": "/etc/passwd"}, "has no files of this machine"),
        ({"into": "mycomesh_cursors"}, "cannot use tables of the node"),
        ({"on": "mycomesh_flows"}, "cannot use tables of the node"),
        ({"run": 7}, "needs 'run'"),
        ({"timeout_s": TIMEOUT_S_MAX}, ""),
        ({"timeout_s": TIMEOUT_S_MAX + 1}, "at most 30 s and 512 MiB"),
        ({"memory_mib": MEMORY_MIB_MAX}, ""),
        ({"memory_mib": MEMORY_MIB_MAX + 1}, "at most 30 s and 512 MiB"),
    ],
)
def test_what_no_member_may_is_refused(section, said):
    with pytest.raises(ConfigError, match=said) if said else contextlib.nullcontext():
        shared_flow(Shared("low", "alpha", {**SECTION, **section}), ("good:80",), ".")


def test_hosts_may_be_named_with_their_port():
    for hosts in (("good:80",), ("good",)):
        flow = shared_flow(Shared("low", "alpha", {**SECTION, "run": "http://good:80/x"}), hosts, ".")
        assert flow.function.kind == "http"


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("DELETE FROM drones -- INSERT INTO alerts\n", "does DELETE drones"),
        ("INSERT INTO alerts SELECT id, value, 1 FROM new, mycomesh_meta", "does READ mycomesh_meta"),
        ("UPDATE drones SET battery = 0 -- INSERT INTO alerts\n", "does UPDATE drones"),
        ("INSERT INTO other SELECT id FROM new -- INSERT INTO alerts\n", ""),
        (
            "INSERT INTO alerts WITH x AS (SELECT * FROM mycomesh_meta) SELECT value, 1, 1 FROM x, new",
            "does READ mycomesh_meta",
        ),
        (
            "INSERT INTO alerts SELECT y.value, 1, 1 FROM new, (SELECT * FROM mycomesh_meta) AS y",
            "does READ mycomesh_meta",
        ),
        # A CTE with the name of the owner's view, and of a trigger.
        (
            "INSERT INTO alerts WITH v AS (SELECT * FROM mycomesh_meta) SELECT value, 1, 1 FROM v, new",
            "does READ mycomesh_meta",
        ),
        (
            "INSERT INTO alerts WITH g AS (SELECT * FROM mycomesh_meta) SELECT value, 1, 1 FROM g, new",
            "does READ mycomesh_meta",
        ),
        ("INSERT INTO alerts SELECT value, 1, 1 FROM inner_view, new", "does READ mycomesh_meta"),
        ("INSERT INTO alerts SELECT file, 1, 1 FROM pragma_database_list, new", "does READ pragma_database_list"),
        ("INSERT INTO alerts SELECT count(*), 1, 1 FROM pragma_database_list, new", "does READ pragma_database_list"),
        ("INSERT INTO alerts SELECT name, 1, 1 FROM dbstat, new", "does READ dbstat"),
        ("INSERT INTO alerts SELECT sql, 1, 1 FROM sqlite_schema, new", "does READ sqlite_master"),
        ("INSERT INTO alerts SELECT load_extension('x'), 1, 1 FROM new", "does FUNCTION load_extension"),
        ("REPLACE INTO alerts SELECT _key, v.id, count(*) FROM new, v, drones", "fits"),
    ],
)
def test_sql_of_a_member_only_inserts_its_results(run, said):
    db = apsw.Connection(":memory:")
    db.execute(
        "CREATE TABLE drones(id TEXT PRIMARY KEY, battery); CREATE TABLE alerts(key TEXT PRIMARY KEY, drone, what);"
        "CREATE TABLE mycomesh_meta(value); CREATE TABLE other(id); CREATE VIEW v AS SELECT id FROM drones;"
        "CREATE VIEW inner_view AS SELECT * FROM mycomesh_meta;"
        "CREATE TRIGGER g AFTER INSERT ON alerts BEGIN INSERT INTO mycomesh_meta SELECT max(value) + 1 FROM mycomesh_meta; END"
    )
    section = {"on": "drones", "run": f"sql: {run}"}
    flow = shared_flow(Shared("low", "alpha", section), (), ".")
    function = SqlFunction(db, flow)
    if said in ("", "fits"):  # the first table that it names is the one of its results
        function.statement(function.columns())
        return
    with pytest.raises(
        FunctionError, match=f"a flow that alpha shares may read your tables and write alerts alone.*{said}"
    ):
        function.statement(function.columns())


def test_sql_of_a_member_has_one_second():
    db = apsw.Connection(":memory:")
    section = {**SECTION, "timeout_s": 30}
    assert SqlFunction(db, shared_flow(Shared("low", "alpha", section), (), ".")).seconds == SHARED_S_MAX == 1
    assert SqlFunction(db, parse("low", section)).seconds == 30
    assert SqlFunction(db, shared_flow(Shared("low", "alpha", {**section, "timeout_s": 1}), (), ".")).seconds == 1
