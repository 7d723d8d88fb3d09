"""Sections of flows: the usual case takes three lines, and each mistake is one line that names the remedy."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.tools.flows.function import MEMORY_MIB_MAX, SQL_CHARS_MAX, TIMEOUT_S_MAX
from mycomesh.tools.flows.settings import check_cycles, parse
from mycomesh.tools.models.tensors import COLUMNS_MAX, Tensors

INSERT = "sql: INSERT INTO alerts(drone) SELECT id FROM new"
SELECT = "sql: SELECT id FROM new"


def flow(name="low", **section):
    section = {"on": "drones", "run": INSERT, **section}
    return parse(name, {key.rstrip("_"): value for key, value in section.items()})


def test_two_lines_are_enough():
    found = flow()
    assert (found.table, found.into, found.where, found.begin, found.function.timeout_s) == (
        "drones",
        "alerts",
        "here",
        "now",
        30,
    )


@pytest.mark.parametrize(
    ("on", "table"),
    [
        ("SELECT * FROM drones WHERE battery < 20", "drones"),
        ('SELECT a.b FROM "my ""drones" a JOIN x', 'my "drones'),
        ("with x as (select 1) select * from [a b]", "a b"),
    ],
)
def test_a_select_names_its_table(on, table):
    assert flow(on=on).table == table


@pytest.mark.parametrize("sql", ['INSERT OR IGNORE INTO "alerts" SELECT 1', "replace into alerts select 1"])
def test_an_insert_names_its_table(sql):
    assert flow(run=f"sql: {sql}", into="Alerts").into == "alerts"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"on": ""}, "needs 'on'"),
        ({"run": 3}, "needs 'run'"),
        ({"run": "sql: " + "x" * SQL_CHARS_MAX}, "at most 100,000 characters"),
        ({"run": "INSERT INTO a SELECT 1"}, "run must begin with 'sql:'"),
        ({"run": "python: a.b"}, "names a function of a module"),
        ({"run": "exec: cat"}, "needs 'into'"),
        ({"memory_mib": 1}, "memory_mib must be 64..65,536"),
        ({"memory_mib": MEMORY_MIB_MAX + 1}, "memory_mib must be 64..65,536"),
        ({"run": "sql: DELETE FROM alerts"}, "run takes an INSERT or a SELECT"),
        ({"run": SELECT}, "needs 'into'"),
        ({"run": f"{INSERT}; SELECT 1"}, "run takes one statement"),
        ({"into": "notes"}, "into is 'notes', but the SQL inserts into 'alerts'"),
        ({"on": "SELECT * FROM new"}, "needs the table after FROM"),
        ({"where": "there"}, "where must be"),
        ({"where": "everywhere"}, "write new._key"),
        ({"from_": "end"}, "from must be one of"),
        ({"timeout_s": 0}, "timeout_s must be 1..3,600"),
        ({"timeout_s": TIMEOUT_S_MAX + 1}, "timeout_s must be 1..3,600"),
        ({"when": 1}, "unknown key 'when'"),
        ({"on": "ALERTS"}, "comes back to ALERTS, by low"),
    ],
)
def test_a_wrong_section_is_one_clear_line(section, said):
    with pytest.raises(ConfigError) as caught:
        flow(**section)
    assert said in str(caught.value)
    assert str(caught.value).startswith("[flow.low] ")
    assert "\n" not in str(caught.value)


def test_cycles_over_several_flows_are_found():
    one = flow("one", on="a", run=SELECT, into="b")
    two = flow("two", on="B", run=SELECT, into="c")
    check_cycles(two, [one])
    with pytest.raises(ConfigError, match="by three -> one -> two"):
        check_cycles(flow("three", on="c", run=SELECT, into="A"), [one, two])


def test_tensors_of_a_model_are_declared_in_the_section():
    found = flow(
        run="onnx: m@3", into="alerts", inputs={"x": ["a", "b"], "y": "c", "k": 2}, outputs={"z": "what"}, keep=[]
    )
    assert (found.function.kind, found.function.call) == ("onnx", "m@3")
    assert found.function.tensors == Tensors({"x": ("a", "b"), "y": ("c",), "k": 2}, {"z": ("what",)}, ())
    assert flow(run="onnx: m", into="alerts", keep=["id"] * COLUMNS_MAX).function.tensors.keep == ("id",) * COLUMNS_MAX
    assert flow(run="onnx: m", into="alerts").function.tensors.keep is None


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"run": "onnx: m@new"}, "names a model, or a version of it as MODEL@3"),
        ({"inputs": ["x"]}, "inputs names columns, such as inputs = { x = "),
        ({"inputs": {"x": True}}, "inputs.x is a column or a list of up to 1,000 or a number, not True"),
        ({"outputs": {"z": 1}}, "outputs.z is a column or a list of up to 1,000, not 1"),
        ({"keep": ["a"] * (COLUMNS_MAX + 1)}, "keep is a column or a list"),
        ({"run": SELECT, "keep": ["id"]}, "keep is a key of flows with run = "),
    ],
)
def test_mistakes_of_tensors_are_one_line(section, line):
    with pytest.raises(ConfigError) as raised:
        flow(**{"run": "onnx: m", "into": "alerts", **section})
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)
