"""Bases without a link: rows go by a stick, and nothing on the stick can be read or forged."""

import json
import shutil

import pytest

from mycomesh.tools.commands.mailbox import url_of
from tests.integration.machines import eventually
from tests.mesh.mailbox.servers import KEYS, S3, Nats

pytestmark = pytest.mark.slow


@pytest.fixture
def apart(machine, joined, tmp_path):
    """Two members that serve and never link."""
    for name in ("alpha", "bravo"):
        shutil.copytree(joined / name, tmp_path / name)
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.up()
    bravo.up()
    (tmp_path / "stick").mkdir()
    return alpha, bravo, tmp_path / "stick"


def rows(one):
    return one.sql("SELECT id, CASE typeof(v) WHEN 'blob' THEN hex(v) ELSE v END FROM drones ORDER BY id")


def digest(one):
    return {table["name"]: table["digest"] for table in one.status()["tables"]}


def test_a_stick_brings_two_bases_together(apart):
    alpha, bravo, stick = apart
    alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v TEXT)")
    alpha.sql(
        "WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5000)"
        " INSERT INTO drones SELECT 'd' || x, 'known value ' || x FROM n"
    )
    eventually(lambda: [table["rows"] for table in alpha.status()["tables"]] == [5000], "alpha has read its rows")
    alpha.done("mailbox", "export", str(stick))
    files = list(stick.rglob("*.box"))
    assert files
    assert not any(b"known value" in file.read_bytes() or b"drones" in file.read_bytes() for file in files)
    assert bravo.run("mailbox", "import", str(stick)).stderr == "alpha: read\n"
    assert rows(bravo) == rows(alpha)
    assert len(rows(bravo).splitlines()) == 5000
    # The way back: an update, a delete and a conflict.
    bravo.sql("UPDATE drones SET v = 'changed' WHERE id = 'd7'; DELETE FROM drones WHERE id = 'd8'")
    alpha.sql("INSERT INTO drones VALUES ('new', 'of alpha')")
    bravo.done("mailbox", "export", str(stick))
    alpha.done("mailbox", "import", str(stick))
    alpha.done("mailbox", "export", str(stick))
    bravo.done("mailbox", "import", str(stick))
    eventually(lambda: digest(alpha) == digest(bravo), "both bases are equal")
    assert rows(alpha) == rows(bravo)
    assert "d7|changed" in rows(alpha)
    assert "new|of alpha" in rows(bravo)
    assert "d8|" not in rows(alpha)
    assert not any(peer["state"] == "linked" for peer in alpha.status()["peers"])


def test_damaged_and_partial_parcels_change_nothing(apart):
    alpha, bravo, stick = apart
    alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v BLOB)")
    alpha.sql(
        "WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 40)"
        " INSERT INTO drones SELECT 'd' || x, randomblob(50000) FROM n"
    )
    eventually(lambda: [table["rows"] for table in alpha.status()["tables"]] == [40], "alpha has read its rows")
    alpha.done("mailbox", "export", str(stick))
    files = sorted(stick.rglob("*.box"))
    assert len(files) > 2
    whole = files[-1].read_bytes()
    for damage in (whole[:-1], whole[:-1] + bytes((whole[-1] ^ 1,)), files[0].read_bytes(), b""):
        files[-1].write_bytes(damage)
        done = bravo.run("mailbox", "import", str(stick))
        assert done.returncode == 1
        assert "refused" in done.stderr
        assert bravo.status()["tables"] == []
    files[-1].write_bytes(whole)
    middle = files[1].read_bytes()
    files[1].unlink()
    assert "it has no complete parcel" in bravo.run("mailbox", "import", str(stick)).stderr
    files[1].write_bytes(middle)
    bravo.done("mailbox", "import", str(stick))
    assert rows(bravo) == rows(alpha)


def test_a_mailbox_that_is_away_is_one_clear_line(apart, tmp_path):
    alpha, _, stick = apart
    steps = [line.split()[:-1] for line in alpha.done("mailbox", "test", str(stick)).splitlines()[1:]]
    assert len(steps) == 8
    assert all("ok" in step for step in steps)
    assert list(stick.iterdir()) == [stick / "mycomesh"]
    for action in ("export", "import"):
        done = alpha.run("mailbox", action, str(tmp_path / "away"))
        assert done.returncode == 1
        assert "check that it is mounted, writable and not full" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = alpha.run("mailbox", "test", str(tmp_path / "away"))
    assert done.returncode == 1
    assert "check that it is mounted, writable and not full" in done.stdout
    done = alpha.run("mailbox", "import", str(stick))
    assert done.returncode == 1
    assert "has no parcel of another node" in done.stderr


@pytest.fixture(params=["nats", "s3"])
def storage(request, tmp_path):
    """Return the URL of a mailbox at a server, the options of commands that use it, and where its data lie."""
    if request.param == "nats":
        with Nats(tmp_path) as server:
            yield server.url(), [], tmp_path / "alone"
        return
    server, keys = S3(tmp_path), tmp_path / "s3.toml"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    yield server.url(), ["--credentials", str(keys)], None
    server.close()


def test_a_server_between_bases_brings_them_together(apart, storage):
    alpha, bravo, _ = apart
    url, more, data = storage
    findings = json.loads(alpha.done("mailbox", "test", url, *more, "--json"))["findings"]
    assert [each["good"] for each in findings] == [True] * 8, findings
    alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v BLOB)")
    alpha.sql("INSERT INTO drones VALUES ('big', randomblob(2000000)), ('small', 'known value')")
    eventually(lambda: [table["rows"] for table in alpha.status()["tables"]] == [2], "alpha has read its rows")
    for _ in range(2):  # the second replaces the first
        alpha.done("mailbox", "export", url, *more)
    assert bravo.run("mailbox", "import", url, *more).stderr == "alpha: read\n"
    assert rows(bravo) == rows(alpha)
    if data is not None:
        assert not any(b"known value" in file.read_bytes() for file in data.rglob("*") if file.is_file())


def test_a_wrong_mailbox_is_told_before_anything_is_opened(machine, joined, tmp_path):
    shutil.copytree(joined / "alpha", tmp_path / "alpha")
    alpha = machine("alpha")
    alpha.file.unlink(missing_ok=True)
    for url, why in (("ftp://x", "unknown scheme"), ("s3://", "names no bucket"), ("nats://u:p@h", "credentials file")):
        done = alpha.run("up", str(alpha.file), "--mailbox", url)
        assert (done.returncode, done.stdout) == (2, "")
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not alpha.file.exists()


def test_a_path_counts_from_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for place in ("share", "dir:share", str(tmp_path / "share"), f"dir:{tmp_path}/share"):
        assert url_of(place) == f"dir:{tmp_path}/share"
    assert url_of("s3://boxes/fleet") == "s3://boxes/fleet"
