"""The mailbox between simulated bases: honest it keeps the contract, and each wrong shows."""

import pytest

from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.simulations import mailbox as module
from mycomesh.simulations.mailbox import WRONGS, SharedMailbox, SurveyedWay, Way
from mycomesh.simulations.world import World

MESH, STREAM = bytes(16), b"stream 1"


def filled(*wrongs):
    shared = SharedMailbox(World(1))
    shared.wrongs = wrongs
    way = Way(shared)
    for position in range(1, 101):
        assert way.append(MESH, STREAM, position, b"envelope %d" % position)
    return shared, way


def positions(way):
    return [each.position for each in way.list_after(MESH, STREAM, 0)]


def test_an_honest_mailbox_keeps_the_contract():
    _, way = filled()
    assert positions(way) == list(range(1, 101))
    assert way.streams(MESH) == [STREAM]
    assert not way.append(MESH, STREAM, 7, b"another")
    assert way.get(MESH, Listed(STREAM, 7, 0)) == b"envelope 7"
    way.remove(MESH, Listed(STREAM, 7, 0))
    assert positions(way) == [*range(1, 7), *range(8, 101)]


def test_a_survey_is_one_listing_of_many_streams():
    shared, way = filled()
    surveyed, other, lists = SurveyedWay(shared), b"stream 2", shared.lists
    way.append(MESH, other, 7, b"of the other")
    after = {STREAM: 98, other: 6, b"stream 3": 0}
    assert surveyed.list_all(MESH, after) == {
        STREAM: [Listed(STREAM, 99, 11), Listed(STREAM, 100, 12)],
        other: [Listed(other, 7, 12)],
    }
    assert shared.lists == lists + 1
    way.remove(MESH, Listed(other, 7, 0))
    assert surveyed.list_all(MESH, {STREAM: 100, other: 6}) == {}
    assert way.streams(MESH) == [STREAM]


@pytest.mark.parametrize("wrong", ["loses", "truncates", "reorders"])
def test_each_wrong_hides_envelopes(wrong):
    assert 0 < len(positions(filled(wrong)[1])) < 100


def test_a_liar_shows_other_bytes():
    shared, way = filled()
    shared.wrongs = ("lies",)
    shown = [way.get(MESH, Listed(STREAM, at, 0)) for at in range(1, 101)]
    assert 0 < sum(data != b"envelope %d" % at for at, data in enumerate(shown, 1)) < 50


def test_what_was_removed_may_come_back(monkeypatch):
    monkeypatch.setattr(module, "SHARE", 1.0)
    shared, way = filled()
    way.remove(MESH, Listed(STREAM, 7, 0))
    shared.wrongs = ("repeats",)
    assert 7 in positions(way)
    shared.calm()
    assert 7 not in positions(way)


def test_a_full_storage_and_a_closed_way_are_errors():
    shared, way = filled()
    shared.wrongs = ("full",)
    with pytest.raises(MailboxError, match="full"):
        way.append(MESH, STREAM, 200, b"")
    way.is_open = False
    with pytest.raises(MailboxError, match="closed"):
        way.streams(MESH)
    assert set(WRONGS) == {"loses", "truncates", "repeats", "reorders", "lies", "full"}
