"""Pages of windows hold the changes that pages of rows hold, and never more than were asked for."""

from __future__ import annotations

import random

import pytest

from mycomesh.sync.feed.position import Position
from mycomesh.sync.feed.windows import SetPage
from tests.sync.peers import converge
from tests.sync.scale import SCALE

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)"


def window_ids(peer, page):
    """Return the ids of the changes in the windows of a page whose rows are there."""
    db, found = peer.replica.store.db, []
    for window in page.windows:
        bounds = (window.place, window.after, window.reached)
        found += db.execute(
            f"SELECT hlc FROM {page.log} JOIN t ON id = row WHERE place = ? AND hlc > ? AND hlc <= ? AND mask <> 0",
            bounds,
        ).fetchall()
        found += db.execute(
            f"SELECT hlc + id - row AS at FROM {page.runs} JOIN t ON id >= row AND id < row + n"
            " WHERE place = ? AND at > ? AND at <= ?",
            bounds,
        ).fetchall()
        found = [each if isinstance(each, str) else f"t/{window.site.hex()}/{each[0]}" for each in found]
    return found


def next_page(peer, position, rows_max):
    page, published = peer.replica.feed.read_set("t", position, peer.wall_ms, rows_max=rows_max)
    if page is None:
        page, published = peer.replica.feed.read("t", position, peer.wall_ms, rows_max=rows_max)
    peer.published += published
    return page


@pytest.mark.parametrize("seed", range(int(6 * max(1, SCALE))))
def test_windows_hold_the_changes_of_the_feed(pair, seed):
    rng = random.Random(seed)
    one = pair[0]
    one.sql(f"{TABLE}; INSERT INTO t VALUES(-1, -1)")
    one.drain()
    converge(pair)
    for _ in range(12):
        peer = rng.choice(pair)
        start, n = rng.randrange(400), rng.choice([1, 3, 40, 300])
        numbers = f"WITH RECURSIVE n(i) AS (SELECT {start} UNION ALL SELECT i + 1 FROM n WHERE i < {start + n})"
        peer.sql(
            rng.choice(
                [
                    f"{numbers} INSERT OR IGNORE INTO t SELECT i, i FROM n",
                    f"UPDATE t SET v = -v WHERE id BETWEEN {start} AND {start + n}",
                    f"DELETE FROM t WHERE id BETWEEN {start} AND {start + n // 4}",
                ]
            )
        )
        peer.drain()
        if rng.random() < 0.4:
            converge(pair)
    rows, sets, wanted = Position(), Position(), []
    while (page := one.replica.feed.read("t", rows, one.wall_ms)[0]).changes or page.more:
        wanted += [change.id for change in page.changes if change.values is not None and not change.touched]
        rows = page.position
    got = []
    while (page := next_page(one, sets, rng.randrange(1, 500))).count or page.more:
        if isinstance(page, SetPage):
            assert page.count <= 500
            assert page.after(page.count - 1).encode() == sets.encode(), "a part of it is not done with"
            got += window_ids(one, page)
        else:
            got += [change.id for change in page.changes if change.values is not None and not change.touched]
        sets = page.after(page.count)
    assert wanted
    assert sorted(got) == sorted(wanted)
    assert rows.seen.digest() == sets.seen.digest()


def test_rows_without_a_stamp_come_as_rows(pair):
    one, _ = pair
    one.sql(TABLE)
    one.drain()
    one.replica.feed.create("reader", "t", one.wall_ms)
    one.sql("INSERT INTO t VALUES(1, 1), (2, 2)")
    one.drain()
    with one.replica.store.transaction():
        one.replica.feed._touched.repeat(one.replica.tables["t"], 1, "1")
    assert one.replica.feed.read_set("t", Position(), one.wall_ms, rows_max=1)[0].more, "a full page has no such row"
    assert one.replica.feed.read_set("t", Position(), one.wall_ms, rows_max=9)[0] is None
