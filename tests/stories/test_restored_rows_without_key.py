"""A restored backup writes rows without a key before it learns that its site has gone further: each row is there once."""

import shutil

import pytest

from tests.stories.test_purge_of_unnamed_rows import PERIOD_MS, UNNAMED, made, scrubbed, settle, shown


def apart(world):
    for link in sorted(world.links):
        if link in world.links:
            world.cut(link)


def put_back(node, saved):
    """Begins a run on a backup of the file, without the note of the last clock that the node keeps beside it."""
    node.peer.close()
    for path in saved.parent.glob(f"{node.peer.path.name}*"):
        path.unlink()
    shutil.copy(saved, node.peer.path)
    node.peer.open()
    node.begin()
    node.wake_at = None


@pytest.mark.parametrize("kind", [*UNNAMED, "unique"])
@pytest.mark.parametrize("how", ["live", "in a round", "to nobody"])
def test_row_that_a_restored_file_showed_is_once(tmp_path, kind, how):
    world = made(tmp_path, kind)
    restored, behind, ahead = world.nodes
    world.write(restored, "CREATE TABLE other(id INTEGER PRIMARY KEY); INSERT INTO t(at, what) VALUES(1, 'first')")
    world.run(PERIOD_MS)
    apart(world)
    saved = tmp_path / "saved.db"
    restored.sql("VACUUM INTO ?", str(saved))
    world.write(restored, "INSERT INTO t(at, what) VALUES(2, 'lost'); INSERT INTO other VALUES(1)")
    world.link(restored, ahead)  # the third node, which alone has what the backup lacks
    world.run(PERIOD_MS)
    apart(world)
    put_back(restored, saved)
    # Once a peer has a table equal, nobody's word about it ends the site: this one has a row of its own there.
    world.write(behind, "INSERT INTO other VALUES(2)")
    if how == "live":
        world.link(restored, behind)
    world.write(restored, "INSERT INTO t(at, what) VALUES(3, 'mine')")
    world.write(restored, "UPDATE t SET more = 'mine' WHERE at = 3")
    if how == "in a round":
        world.link(restored, behind)
    world.run(4)
    world.link(restored, ahead)
    settle(world)
    world.link(behind, ahead)
    settle(world)
    assert [shown(node) for node in world.nodes] == [
        [(1, "first", "none"), (2, "lost", "none"), (3, "mine", "mine")]
    ] * 3
    assert world.equal()
    scrubbed(world, world.nodes)
    assert restored.noticed().count("site.renewed") == 1
    world.close()
