"""How many links a node of a large mesh wants: a view's worth, and now and then one more while somebody is missing."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.overlay.active_view import (
    EXPLORE_MS,
    FILL_MS,
    SEARCH_SPACING_MAX,
    STARTING_MS,
    ActiveView,
)
from mycomesh.mesh.overlay.kin import PARTIAL_LINKS

FULL = [bytes((number,)) * 16 for number in range(MeshConfig().view_min)]


def view_of(members, reachable, *, large=True, own=None, hub=False):
    """The view of a grown node that knows so many members and reaches so many nodes."""
    topology = SimpleNamespace(reachable_count=lambda _now_ms: reachable)
    interests, kin = SimpleNamespace(own=own, has_hub=hub), SimpleNamespace(members=lambda: frozenset(FULL[:1]))
    overlay = SimpleNamespace(
        roster=range(members), topology=topology, is_large=lambda _now_ms: large, interests=interests, kin=kin
    )
    view = ActiveView(MeshConfig(), overlay, random.Random(1))
    view.links_wanted(FULL, 0)
    return view


def explored(view, until_ms):
    """When the view wanted a link beyond its fill."""
    return [now_ms for now_ms in range(STARTING_MS, until_ms, 500) if view.links_wanted(FULL, now_ms)]


def test_a_full_view_wants_nothing_while_nobody_is_missing():
    assert explored(view_of(200, 200), 60_000) == []


def test_view_that_is_not_full_wants_what_it_lacks():
    assert view_of(200, 200).links_wanted(FULL[:2], STARTING_MS) == len(FULL) - 2


@pytest.mark.parametrize(("reachable", "every_ms"), [(2, EXPLORE_MS), (10, EXPLORE_MS), (20, 20_000), (90, 90_000)])
def test_the_more_nodes_search_the_more_rarely_each_does(reachable, every_ms):
    first, second, third = explored(view_of(1_000, reachable), 500_000)[:3]
    assert first == STARTING_MS
    assert second - first == third - second == -(-every_ms // 500) * 500


@pytest.mark.parametrize(
    ("members", "links", "reachable", "spacing"),
    [
        (1, 0, 1, 1),  # a founder alone
        (3, 2, 3, SEARCH_SPACING_MAX),
        (3, 1, 2, 1),  # a small mesh links to all
        (200, 6, 200, SEARCH_SPACING_MAX),
        (200, 5, 200, 1),  # below its view
        (200, 6, 5, 1),  # a small island: each node searches for the others
        (200, 6, 20, 5),
        (200, 6, 199, SEARCH_SPACING_MAX),
    ],
)
def test_search_backs_off_with_links_and_searchers(members, links, reachable, spacing):
    view = view_of(members, reachable, large=members > MeshConfig().full_mesh_max)
    assert view.search_spacing([bytes((number,)) * 16 for number in range(links)], STARTING_MS) == spacing


def test_a_node_of_parts_has_few_other_links():
    view = view_of(200, 200, own={"t": frozenset(("1",))})
    later_ms = STARTING_MS + FILL_MS
    assert view.links_wanted(FULL[:1], STARTING_MS) == PARTIAL_LINKS - 1
    assert view.links_wanted(FULL[:PARTIAL_LINKS], STARTING_MS) == 0  # others may dial
    assert view.deadline(FULL[:PARTIAL_LINKS]) == later_ms
    assert view.links_wanted(FULL[:PARTIAL_LINKS], later_ms) == 1
    assert view.links_wanted(FULL[: PARTIAL_LINKS + 1], later_ms + FILL_MS) == 0
    assert view.links_wanted(FULL[1:4], later_ms + FILL_MS) == 0
    assert (
        view.links_wanted(FULL[1:4], later_ms + 2 * FILL_MS) == 1
    )  # no other member that keeps what it keeps is linked


def test_beside_a_node_that_keeps_all_two_others_do():
    view = view_of(200, 200, own={"t": frozenset(("1",))}, hub=True)
    assert view.links_wanted(FULL[:2], STARTING_MS + FILL_MS) == 0
    assert view.links_wanted(FULL[:2], STARTING_MS + 2 * FILL_MS) == 1
    assert view.links_wanted(FULL[:3], STARTING_MS + 4 * FILL_MS) == 0


def test_a_small_mesh_of_parts_is_no_full_mesh():
    own = {"t": frozenset(("1",))}
    assert view_of(10, 10, large=False, own=own).links_wanted(FULL[:4], STARTING_MS + FILL_MS) == 0
    assert view_of(10, 10, large=False, own={}).links_wanted(FULL[:4], STARTING_MS) > 10
