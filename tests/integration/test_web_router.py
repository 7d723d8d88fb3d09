"""The Router of the page in a real browser: boxes and wires of flows, and steps that are commands."""

from __future__ import annotations

import json
import re

import pytest

from tests.integration.machines import Machine, eventually
from tests.integration.test_web import Web
from tests.integration.test_web_page import AXE, HOSTILE_CELL, browser, go, pytestmark, until, without_land

__all__ = ["browser", "pytestmark"]

HOSTILE_TABLE = "<img src=x onerror=\"document.title='owned'\">"
HOSTILE_SQL = "sql: SELECT id || '" + HOSTILE_CELL.replace("'", "''") + "' AS text FROM new"
FLOWS = f"""
[flow.low]
on = "SELECT * FROM drones WHERE battery < 20"
run = "sql: SELECT id AS drone, 'low at ' || battery AS what FROM new"
into = "alerts"

[flow.page-the-crew]
on = "alerts"
run = "sql: SELECT what AS text FROM new"
into = "pages"

[flow.strict]
on = "drones"
run = "sql: INSERT INTO checked SELECT id, abs(-9223372036854775807 - (battery > 90)) FROM new"

[flow.strange]
on = {json.dumps(HOSTILE_TABLE)}
run = {json.dumps(HOSTILE_SQL)}
into = "pages"

[flow.later]
on = "drones"
run = "onnx: missing"
into = "scores"
"""
TABLES = (
    "CREATE TABLE drones(id TEXT PRIMARY KEY, battery INTEGER);"
    "CREATE TABLE alerts(key TEXT PRIMARY KEY, drone TEXT, what TEXT);"
    "CREATE TABLE pages(id INTEGER PRIMARY KEY, text TEXT);"
    "CREATE TABLE checked(id TEXT PRIMARY KEY, value INTEGER);"
    "CREATE TABLE scores(key TEXT PRIMARY KEY, id TEXT, score REAL);"
    "CREATE TABLE crew(id INTEGER PRIMARY KEY, name TEXT);"
    f'CREATE TABLE "{HOSTILE_TABLE.replace(chr(34), chr(34) * 2)}"(id TEXT PRIMARY KEY)'
)


@pytest.fixture(scope="module")
def alpha(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("router"), "alpha")
    machine.done("init", "--node-name", "alpha")
    machine.home.config_file.write_text(FLOWS)
    machine.home.config_file.chmod(0o600)
    machine.sql(TABLES)
    machine.up("--port", "0")
    states = {
        "low": "running",
        "page-the-crew": "running",
        "strict": "running",
        "strange": "running",
        "later": "waiting",
    }
    eventually(lambda: {each["name"]: each["state"] for each in machine.status()["children"]} == states, "all run")
    machine.sql("INSERT INTO drones VALUES('d1', 10), ('d2', 95), ('d3', 50)")
    machine.shows("SELECT text FROM pages", "low at 10\n")
    eventually(lambda: len(json.loads(machine.done("dead", "--json"))) >= 1, "one fails")
    web = Web(machine, "--allow-writes")
    yield machine, web
    web.close()
    machine.terminate()


@pytest.fixture(scope="module")
def desk(browser, alpha):
    context = browser.new_context(bypass_csp=True)  # for axe
    page = without_land(context.new_page())
    page.goto(f"http://127.0.0.1:{alpha[1].port}/")
    yield page
    context.close()


@pytest.fixture
def router(desk, alpha):
    """Return a function that opens the Router at a width."""

    def opened(width=1440, scheme="light"):
        desk.set_viewport_size({"width": width, "height": 900})
        desk.emulate_media(color_scheme=scheme)
        desk.evaluate("token => { localStorage.clear(); location.hash = `#token=${token}` }", alpha[1].token)
        desk.reload()
        desk.wait_for_selector("#state:has-text('alpha')")
        go(desk, "#/router")
        desk.wait_for_selector(".flows .flow.bad")
        return desk

    return opened


def box(page, name):
    return page.locator(f'.flows [data-box="{name}"]')


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_router_fits_and_is_accessible(router, width, scheme):
    page = router(width, scheme)
    for opened in (False, True):
        if opened:
            box(page, "low").click()
            page.wait_for_selector(".step form")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.add_script_tag(path=str(AXE))
        found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] != "minor"] == []


def test_boxes_show_states_and_dead_letters(router):
    page = router()
    assert page.locator(".flows .flow").count() == 5
    assert "1 dead letter" in box(page, "strict").text_content()
    assert box(page, "strict").get_attribute("class").split().count("bad") == 1
    assert "waiting" in box(page, "later").text_content()
    assert box(page, "low").text_content() == "low running"
    places = {
        name: page.evaluate("name => document.querySelector(`[data-box='${name}']`).getBoundingClientRect().x", name)
        for name in ("low", "page-the-crew")
    }
    assert places["low"] < places["page-the-crew"]  # what comes later is further on
    assert page.locator(".lone").inner_text().count("crew") == 1


def test_hostile_names_of_flows_are_text(router):
    page = router()
    assert page.evaluate("document.querySelectorAll('.routerview img, .routerview b, .routerview script').length") == 0
    box(page, "strange").click()
    assert page.locator(".step textarea").input_value() == HOSTILE_SQL
    assert page.locator(".step input[name=on]").input_value() == HOSTILE_TABLE
    assert page.title() != "owned"


def test_steps_are_commands_and_can_be_undone(router, alpha):
    machine, _ = alpha
    page = router()
    box(page, "low").click()
    page.fill(".step textarea", "sql: SELECT id AS drone, 'empty' AS what FROM new")
    command = page.locator(".step .command").inner_text()
    assert command == "mycomesh flow edit low '--run=sql: SELECT id AS drone, '\"'\"'empty'\"'\"' AS what FROM new'"
    page.click("button:text-is('Try on 10 rows')")
    page.wait_for_selector(".step .results td:has-text('empty')")
    machine.shows("SELECT count(*) FROM alerts WHERE what = 'empty'", "0\n")
    page.click(".step button:text-is('Deploy')")
    until(page, "document.querySelector('.said').textContent.startsWith('mycomesh flow edit low')")
    assert page.locator(".said").inner_text() == command
    eventually(lambda: "running" in machine.done("flow", "status"), "it runs again")
    machine.sql("INSERT INTO drones VALUES('d4', 5)")
    machine.shows("SELECT what FROM alerts WHERE drone = 'd4'", "empty\n")

    page.click("button:text-is('Undo')")
    until(page, "document.querySelector('.said').textContent === 'mycomesh flow rollback low'")
    machine.sql("INSERT INTO drones VALUES('d5', 5)")
    machine.shows("SELECT what FROM alerts WHERE drone = 'd5'", "low at 5\n")

    page.click(".step button:text-is('Pause')")
    eventually(lambda: "paused" in box(page, "low").text_content(), "it is paused")
    page.click("button:text-is('Undo')")
    eventually(lambda: "running" in box(page, "low").text_content(), "it runs again")


def test_open_panel_follows_the_state_of_its_flow(router, alpha):
    """Its button would else do what is done already, and what is typed must not be lost."""
    machine, _ = alpha
    page = router()
    box(page, "low").click()
    page.fill(".step input[name=into]", "half a na")
    for command, state, label in (("pause", "paused", "Resume"), ("resume", "running", "Pause")):
        machine.done("flow", command, "low")
        page.wait_for_selector(f".step .badge:text-is('{state}')")
        page.wait_for_selector(f".step button:text-is('{label}')")
        assert page.locator(".step input[name=into]").input_value() == "half a na"


def test_new_flow_is_added_and_removed_again(router, alpha):
    machine, _ = alpha
    page = router()
    page.click("button:text-is('Add a flow')")
    for field, text in (("name", "full"), ("on", "drones"), ("into", "pages")):
        page.fill(f".step input[name={field}]", text)
    page.fill(".step textarea", "python: crew:full")
    page.click(".step button:text-is('Deploy')")
    page.wait_for_selector(".step .results .error:has-text(\"begin with 'sql:' or 'onnx:'\")")
    page.fill(".step textarea", "sql: SELECT volts AS text FROM new")
    page.click("button:text-is('Try on 10 rows')")
    page.wait_for_selector(".step .results .error:has-text('no such column: volts')")
    page.fill(".step textarea", "sql: SELECT 'full' AS text FROM new WHERE battery > 80")
    page.click(".step button:text-is('Deploy')")
    box(page, "full").wait_for()
    assert "[flow.full]" in machine.home.config_file.read_text()
    eventually(lambda: "running" in box(page, "full").text_content(), "it runs")
    machine.sql("INSERT INTO drones VALUES('d6', 85)")
    machine.shows("SELECT count(*) FROM pages WHERE text = 'full'", "1\n")
    page.click("button:text-is('Undo')")
    until(page, "document.querySelector('.said').textContent === 'mycomesh flow remove full'")
    box(page, "full").wait_for(state="detached")
    assert "[flow.full]" not in machine.home.config_file.read_text()


def test_wire_shows_rows_per_second(router, alpha):
    machine, _ = alpha
    page = router()

    def moving():
        machine.sql("UPDATE drones SET battery = battery + 1 WHERE id = 'd3'")
        return re.search(r"/s", page.locator(".flows").text_content()) is not None

    eventually(moving, "the wire says so")


def test_console_without_writes_shows_flows_and_no_buttons(browser, alpha):
    web = Web(alpha[0])
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    try:
        page.goto(f"http://127.0.0.1:{web.port}/#/router")
        box(page, "low").click()
        page.wait_for_selector(".step form")
        assert page.locator(".routerview button:text-is('Deploy')").count() == 0
        assert page.locator(".step textarea").is_disabled()
        assert "read-only" in page.locator(".routerview .tools").inner_text()
    finally:
        context.close()
        web.close()
