"""Faults in words: every kind, with the nodes that it strikes and nothing of how it is written down."""

from __future__ import annotations

import typing

import pytest

from mycomesh.mesh.versions import Versions
from mycomesh.simulations import faults
from mycomesh.simulations.numbers import numbers_text
from mycomesh.simulations.scenarios import CATALOGUE, build
from mycomesh.simulations.wording import in_words
from mycomesh.simulations.world import Clock

SAID = (
    (faults.Split(1, ((0, 2, 1), (3, 4), (6,))), "the network splits: nodes 0-2 | 3-4 | 6"),
    (faults.Heal(1), "the network heals"),
    (faults.Cut(1, 2, 3), "no packet from node2 reaches node3"),
    (faults.Cut(1, 2, 3, one_way=False), "no packet from node2 reaches node3, nor in the other direction"),
    (faults.Radio(1, 2, on=False), "the radio of node2 goes off"),
    (faults.Reset(1), "a connection breaks"),
    (faults.Move(1, ((0, 1.0, 2.0),)), "1 node(s) move"),
    (faults.Crash(1, 4), "node4 is killed (kill -9)"),
    (faults.Crash(1, 4, silent=True), "node4 and its machine stop without notice"),
    (faults.PowerCut(1, 4), "the machine of node4 loses power"),
    (faults.Stop(1, 4), "node4 is stopped cleanly"),
    (faults.Restart(1, 4), "node4 starts again"),
    (faults.Upgrade(1, 4, Versions(1, 2)), "node4 comes back with a program that speaks protocol 1 to 2"),
    (faults.Join(1, 4), "node4 joins with an empty file"),
    (faults.Backup(1, 4), "the file of node4 is copied aside"),
    (faults.Restore(1, 4), "node4 loses its file, and continues with the copy"),
    (faults.Clone(1, 2, 4), "node4 starts on a copy of the file of node2"),
    (faults.Revoke(1, 4), "node4 is revoked"),
    (faults.Purge(1, 4, 0.5), "node4 is revoked, and its writes since 0.5 s are dropped"),
    (faults.Betray(1, 4, ("digests", "audits")), "node4 begins to lie in its digests, audits"),
    (faults.MailboxDoes(1, ("lies", "loses")), "the mailbox does wrong: lies, loses"),
    (faults.MailboxDoes(1, ()), "the mailbox is honest again"),
    (faults.Keep(1, 2, ("1", "3")), "node2 keeps the areas 1, 3"),
    (faults.Keep(1, 2, ()), "node2 keeps no area"),
    (faults.Divide(1, 2), "node2 decides that the table is cut into areas"),
    (faults.Pin(1, 2, 30), "node2 keeps 30 s of the rows that go with time"),
    (faults.Pin(1, 2, 0), "node2 keeps less no longer"),
    (faults.Window(1, 2, opens=False), "the way of base 2 to the mailbox closes"),
    (faults.ClockSet(1, 4, Clock(-1_500, 20)), "the clock of node4 jumps: -1.5 s off, +20 ppm"),
)


@pytest.mark.parametrize(("fault", "words"), SAID)
def test_a_fault_in_words(fault, words):
    assert in_words(fault) == words


def test_every_kind_of_fault_has_words():
    assert {type(fault) for fault, _ in SAID} == set(typing.get_args(faults.Fault))


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_faults_are_shown_in_words_not_as_written(name):
    for fault in build(name, seed=3).faults:
        assert "at_s" not in in_words(fault)
        assert "(" not in in_words(fault).replace("(kill -9)", "").replace("node(s)", "")


def test_runs_of_numbers_are_drawn_together():
    assert numbers_text((0, 1, 2, 5, 7, 8)) == "0-2,5,7-8"
    assert numbers_text(()) == ""
