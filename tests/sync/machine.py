"""Three replicas, their bundles in a heap, and what happens to all of them: the part that every stateful test shares."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.sync.peers import catch_up

NUMBERS = st.integers(0, 2)


class Mail(RuleBasedStateMachine):
    """Times are small and drawn, so that clocks differ and an example replays exactly."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.peers = []
        self.mail = []  # every bundle ever published: (sender, bytes)
        self.written = set()
        self.overwritten = set()
        self.count = 0

    @rule(number=NUMBERS)
    def publish(self, number):
        self.mail += [(number, bundle) for bundle in self.peers[number].drain()]

    @rule(number=NUMBERS, pick=st.integers(0, 1_000))
    def deliver(self, number, pick):
        if self.mail:
            sender, bundle = self._picked(pick)
            self.mail += [(number, own) for own in self.peers[number].take([bundle], self.peers[sender].node_id)]

    @rule(number=NUMBERS, picks=st.lists(st.integers(0, 1_000), min_size=2, max_size=6))
    def deliver_together(self, number, picks):
        if self.mail:
            batches = [(bundle, self.peers[sender].node_id) for sender, bundle in map(self._picked, picks)]
            self.mail += [(number, own) for own in self.peers[number].take_together(batches)]

    def _picked(self, pick):
        return self.mail[-1 - pick % len(self.mail)]

    @rule(receiver=NUMBERS, sender=NUMBERS)
    def round(self, receiver, sender):
        if receiver != sender:
            catch_up(self.peers[receiver], self.peers[sender])

    @rule(number=NUMBERS)
    def restart(self, number):
        self.peers[number].close()
        self.peers[number].open()

    @rule(number=NUMBERS, ms=st.integers(1, 30))
    def time_passes(self, number, ms):
        self.peers[number].wall_ms += ms

    def teardown(self):
        try:
            if self.peers:
                self.check()
        finally:
            for peer in self.peers:
                peer.close()
            self.folder.cleanup()

    def assert_nothing_lost(self, seen):
        """Whatever was written is seen, was overwritten by somebody who saw it, or is on record."""
        assert not seen & self.overwritten, "a value that was overwritten or deleted came back"
        records = "".join(
            text
            for peer in self.peers
            for (text,) in peer.sql("SELECT lost FROM mycomesh_conflicts UNION ALL SELECT content FROM mycomesh_parked")
        )
        lost = [v for v in sorted(self.written - seen - self.overwritten) if f'"{v}"' not in records]
        assert not lost, f"written, never knowingly overwritten, and neither seen nor on record: {lost}"
