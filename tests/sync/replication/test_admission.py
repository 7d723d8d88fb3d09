"""Admission of bundles: stamps up to a minute ahead are taken, later ones are not."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.hlc import DRIFT_MS_MAX, hlc_from_ms
from mycomesh.sync.errors import BatchRefusedError
from mycomesh.sync.replication.admission import admit
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.peers import WALL_MS

ORIGIN = b"o" * 16


def bundle(ahead_ms):
    hlc = hlc_from_ms(WALL_MS + ahead_ms)
    return Bundle([Section("t", [(ORIGIN, 0, hlc)], [Group(ORIGIN, Kind.DELETE, (), [hlc], [1], [[]], None)])]).encode()


@pytest.mark.parametrize(("over", "refused"), [(-1, 0), (0, 0), (1, 1)])
def test_stamps_up_to_the_limit_ahead_are_taken(over, refused):
    payload = bundle(DRIFT_MS_MAX + over)
    _, applied = admit(payload, Rights(b""), WALL_MS, None, ORIGIN)
    assert applied.refused == refused
    if refused:
        with pytest.raises(BatchRefusedError, match="60 s ahead"):
            admit(payload, Rights(b""), WALL_MS, ORIGIN, None)
    else:
        admit(payload, Rights(b""), WALL_MS, ORIGIN, None)
