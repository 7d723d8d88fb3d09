"""Runs: a change log that packs inserts answers as one that does not, whatever is done to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.errors import DecodeError
from mycomesh.sync.storage.change_log import ChangeLog
from mycomesh.sync.storage.insert_runs import RUN_MAX, RUN_MIN
from mycomesh.sync.storage.store import Store

PLACES = 2
SPAN = 700  # clocks and rows of the model: some runs long, with room between them

INSERTS = st.tuples(
    st.just("inserts"), st.integers(0, PLACES - 1), st.integers(1, SPAN), st.integers(1, SPAN), st.integers(1, 300)
)
PICK = st.integers(0, 1_000_000)
EDITS = st.tuples(
    st.sampled_from(["remove", "replace", "loosen", "rehome"]), st.lists(PICK, min_size=1, max_size=12, unique=True)
)


class Model:
    """The entries as a dictionary, beside the log under test."""

    def __init__(self) -> None:
        self.store = Store(":memory:")
        with self.store.transaction():
            self.store.create()
            for number in range(PLACES):
                self.store.site_number_or_new(bytes([number]) * 16)
            self.log = ChangeLog(self.store, 7)
            self.log.create()
            self.log.load()
        self.entries: dict = {}

    def inserts(self, place, hlc, row, count):
        hlcs, rows = range(hlc, hlc + count), range(row, row + count)
        taken = {stored[2] for stored in self.entries.values()}
        if any((place, each) in self.entries for each in hlcs) or taken & set(rows):
            assert self.log.entries_between(place, hlcs[0], hlcs[-1]) or self.log.any_row_between(rows[0], rows[-1])
            return
        assert not self.log.entries_between(place, hlcs[0], hlcs[-1])
        assert not self.log.any_row_between(rows[0], rows[-1])
        digests = [(place + 1) * -977_777_777_777 * each for each in hlcs]
        self.log.add_inserts(place, hlcs, rows, 3, digests)
        for each, name, digest in zip(hlcs, rows, digests, strict=True):
            self.entries[place, each] = (place, each, name, 3, digest, None)

    def edit(self, what, picks):
        if not self.entries:
            return
        stamps = sorted(self.entries)
        for stamp in dict.fromkeys(stamps[pick % len(stamps)] for pick in picks):
            stored = self.entries[stamp]
            assert stored in self.log.entries_of_row(stored[2])
            if what == "remove":
                self.log.remove(self.entries.pop(stamp))
            elif what == "replace":
                self.entries[stamp] = (*stored[:3], 1, stored[4] ^ 0x5555_5555_5555, b"seen")
                self.log.replace(stored, self.entries[stamp])
            elif what == "loosen":
                self.log.unpack(*stamp)
            elif isinstance(stored[2], int):
                self.entries[stamp] = (*stored[:2], b"\x00" + stored[2].to_bytes(24, "big"), *stored[3:])
                self.log.rename_row(stored[2], self.entries[stamp][2])

    def check(self):
        entries = [self.entries[stamp] for stamp in sorted(self.entries)]
        rows = [stored[2] for stored in entries]
        assert self.log.entries_of_rows(rows) == {stored[2]: [stored] for stored in entries}
        assert self.log.rows_of(list(self.entries)) == {stored[:2]: stored[2] for stored in entries}
        assert self.log.scan(-1, 0, 1 << 20) == [(*stored[:3], stored[4]) for stored in entries]
        for at in (0, len(entries) // 3, len(entries) - 1):
            if entries:
                assert self.log.scan(*entries[at][:2], 5) == [
                    (*stored[:3], stored[4]) for stored in entries[at + 1 : at + 6]
                ]
                assert self.log.knows(rows[at])
                place, hlc, row, mask, *_ = entries[at]
                assert self.log.entries_between(place, hlc, hlc) == {hlc: (row, mask)}
        for place in range(PLACES):
            own = {hlc: stored[2:4] for (site, hlc), stored in self.entries.items() if site == place}
            low, high = min(own, default=0) + 2, max(own, default=0) - 2
            window = {hlc: entry for hlc, entry in own.items() if low <= hlc <= high}
            assert self.log.entries_between(place, low, high) == window
        held = {stored[2] for stored in entries}
        assert self.log.rows_with_entries([*rows, *range(1, 2 * SPAN, 7)]) == held
        assert not [row for row in range(1, 2 * SPAN, 7) if row not in held and self.log.knows(row)]
        assert self.log.count == len(entries)
        again = ChangeLog(self.store, 7)
        again.load()
        self.store.dismiss(again)
        assert (again.count, again.digest) == (self.log.count, self.log.digest)
        low = sum(stored[4] & 0xFFFF_FFFF for stored in entries) % (1 << 64)
        assert self.log.sums[0] == low


@pytest.mark.slow
@given(st.lists(st.one_of(INSERTS, EDITS), min_size=1, max_size=12))
def test_a_log_with_runs_answers_as_one_without(steps):
    model = Model()
    for step in steps:
        with model.store.transaction():
            if step[0] == "inserts":
                model.inserts(*step[1:])
            else:
                model.edit(*step)
            model.log.flush()
        model.check()


def test_bulk_births_take_a_record_for_each_run():
    model = Model()
    with model.store.transaction():
        model.inserts(0, 1, 1, 3 * RUN_MAX)
        model.inserts(0, 10_000, 10_000, RUN_MIN - 1)
        model.log.flush()
    assert model.store.db.execute(f"SELECT count(*), sum(n) FROM {model.log.runs.name}").fetchone() == (3, 3 * RUN_MAX)
    assert model.store.db.execute(f"SELECT count(*) FROM {model.log.name}").fetchone() == (RUN_MIN - 1,)
    model.check()


def test_stamp_that_run_has_is_refused_for_another_row():
    model = Model()
    with model.store.transaction():
        model.inserts(0, 1, 1, RUN_MAX)
    with model.store.transaction():
        model.log.add((0, 100, 5_000, 3, 17, None))
        with pytest.raises(DecodeError, match="one stamp for two rows"):
            model.log.flush()
        model.log.rolled_back()
    model.check()


def test_an_undone_transaction_leaves_no_trace():
    model = Model()
    with model.store.transaction():
        model.inserts(0, 1, 1, RUN_MAX)
    before = dict(model.entries)

    def undone():
        with model.store.transaction():
            model.edit("remove", [3, 99])
            model.inserts(1, 1, 2_000, 50)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        undone()
    model.entries = before
    model.check()


def test_runs_are_looked_for_only_where_there_are_some():
    model = Model()
    runs = model.log.runs
    assert runs.is_empty

    def undone():
        with model.store.transaction():
            model.inserts(0, 1, 1, RUN_MAX)
            assert not runs.is_empty
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        undone()
    assert runs.is_empty
    model.entries = {}
    with model.store.transaction():
        model.inserts(0, 1, 1, RUN_MAX)
    assert not runs.is_empty
    assert runs.of_row(3) is not None
    model.check()

    def removed():
        with model.store.transaction():
            model.edit("remove", range(1, RUN_MAX + 1))
            model.log.flush()
            runs.rolled_back()  # as if nobody had looked before
            assert runs.is_empty
            raise ZeroDivisionError

    before = dict(model.entries)
    with pytest.raises(ZeroDivisionError):
        removed()
    model.entries = before
    assert not runs.is_empty
    model.check()
