"""A LAN: hosts in network namespaces that find each other by mDNS alone, and whose cables are cut and plugged in again."""

from __future__ import annotations

import pytest

from tests.integration.machines import SQLITE, Machine, eventually
from tests.integration.netns import Lab, needs_namespaces

pytestmark = [
    needs_namespaces,
    pytest.mark.netns,
    pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)"),
]

CREATE = "CREATE TABLE drones(drone_id, latitude, longitude, altitude, timestamp);"
INSERT = "INSERT INTO drones VALUES (1, 40.7128, -74.0060, 500, '2023-09-11 12:34:56');"
COUNT = "SELECT count(*) FROM drones;"


@pytest.fixture
def lan(tmp_path):
    """Return a lab and a function that adds machines; processes that still run at the end are killed."""
    made = []
    with Lab() as lab:

        def plug_in(name):
            made.append(Machine(tmp_path, name, lab.host(name), net=()))
            return made[-1]

        yield lab, plug_in
        for one in made:
            if one.process is not None and one.process.poll() is None:
                one.kill()


def linked(one):
    return sorted(peer["name"] for peer in one.status().get("peers", ()) if peer["state"] == "linked")


def test_three_hosts_meet_split_and_heal(lan):
    lab, plug_in = lan
    alpha, bravo, charlie = plug_in("alpha"), plug_in("bravo"), plug_in("charlie")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    alpha.up()
    code = alpha.done("invite", "--uses", "2").strip()
    for one in (bravo, charlie):
        assert "joined mesh 'fleet'" in one.run("join", code, "--node-name", one.name).stderr
        one.up()
    eventually(lambda: linked(alpha) == ["bravo", "charlie"], "everybody is linked")
    alpha.sql(CREATE + INSERT)
    for one in (bravo, charlie):
        one.shows(COUNT, "1\n")

    lab.cut("charlie")
    eventually(lambda: linked(alpha) == ["bravo"], "the cut cable was noticed")
    alpha.sql(INSERT * 3)
    charlie.sql(INSERT * 5)
    bravo.shows(COUNT, "4\n")
    assert charlie.sql(COUNT) == "6\n"

    lab.plug("charlie")
    for one in (alpha, bravo, charlie):
        one.shows(COUNT, "9\n")


def test_hosts_started_before_their_cable_find_each_other(lan):
    lab, plug_in = lan
    alpha, bravo = plug_in("alpha"), plug_in("bravo")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    alpha.up()
    code = alpha.done("invite").strip()
    assert "joined mesh 'fleet'" in bravo.run("join", code, "--node-name", "bravo").stderr
    for one in (alpha, bravo):
        if one.process is not None:
            assert one.terminate() == 0
        (one.home.state / "addresses").unlink(missing_ok=True)  # as if they had never linked
    lab.cut("bravo")
    alpha.up()
    bravo.up()
    assert linked(alpha) == []
    lab.plug("bravo")
    eventually(lambda: linked(alpha) == ["bravo"], "they found each other")
