"""The composition of mesh and sync: one node's `MeshCore`, and the routes between it and an `Exchange`.

Owns the translation of the two event vocabularies, and the word to the `Exchange` who the members are. What always holds:
actions come out in the order in which they must be done; the `Exchange` is never called from here, because the daemon runs it
on its SQL thread and the simulator at once, so both hand the answer back with `on_exchange`. It must not know: clocks, sockets,
threads, SQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, assert_never

from mycomesh.mesh import events as mesh_events
from mycomesh.mesh.mesh_clock import MeshTime
from mycomesh.sync import events as sync_events

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MeshMachine", "NodeCore", "ShellAction", "ToExchange"]


@dataclass(frozen=True, slots=True)
class ToExchange:
    """Run this event on the `Exchange` and hand its actions to `NodeCore.on_exchange`."""

    event: sync_events.Event


ShellAction = (
    mesh_events.Dial
    | mesh_events.Write
    | mesh_events.Close
    | mesh_events.Notice
    | mesh_events.Enrolled
    | mesh_events.MembershipChanged
    | ToExchange
)


# How often the `Exchange` hears who the members are and when each was heard of; its own measure are days.
MEMBERS_MS = 60_000

# A correction of the clock is told again when it, or the clock, has changed by so much.
CORRECTED_MS = 1_000

RELAYS = (("*", "-"),)  # the rights of who stores no tables


class KnownMember(Protocol):
    """What this module needs of a `PeerStatus`."""

    @property
    def node_id(self) -> bytes:
        """Its 16-byte node id."""
        ...

    @property
    def seen_ms_ago(self) -> int | None:
        """Milliseconds since something was heard of it, None for never."""
        ...


class KnownRights(Protocol):
    """What this module needs of a `Roster`."""

    version: int  # grows when rights may have changed

    @property
    def own_id(self) -> bytes:
        """This node's 16-byte id."""
        ...

    def limited(self) -> tuple[tuple[bytes, tuple[tuple[str, str], ...]], ...]:
        """Return who may not do everything, and what they may."""
        ...


class KnownTime(Protocol):
    """What this module needs of a `Timekeeper`."""

    time: MeshTime


class MeshMachine(Protocol):
    """What this module needs of a `MeshCore`: one step function, one deadline, the members, the time."""

    def handle(self, event: mesh_events.Event, now_ms: int, wall_ms: int) -> list[mesh_events.Action]:
        """Take one event; answer with the actions in the order in which they must be done."""
        ...

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due, or None."""
        ...

    def peers(self, now_ms: int) -> Sequence[KnownMember]:
        """Return every other member."""
        ...

    @property
    def roster(self) -> KnownRights:
        """Return what members may do."""
        ...

    @property
    def mesh_clock(self) -> KnownTime:
        """Return what the mesh says of this node's clock."""
        ...


class NodeCore:
    """Routes between one `MeshCore` and one `Exchange`; synchronous, without I/O."""

    __slots__ = ("_members_at", "_relays", "_rights_seen", "_time", "mesh")

    def __init__(self, mesh: MeshMachine) -> None:
        self.mesh = mesh
        self._members_at: int | None = None
        self._rights_seen = 0
        self._time = MeshTime()
        self._relays = False  # a relay forwards, and stores no tables

    def handle(self, event: mesh_events.Event, now_ms: int, wall_ms: int) -> list[ShellAction]:
        """Take one event of the mesh's shell; return what the shell must do, in order."""
        actions = self.mesh.handle(event, now_ms, wall_ms)
        return self._rights() + self._timed() + self._routed(actions) + self._members(now_ms)

    def on_exchange(self, actions: list[sync_events.Action], now_ms: int, wall_ms: int) -> list[ShellAction]:
        """Take what the `Exchange` answered to one or more `ToExchange` events; return what the shell must do."""
        done: list[ShellAction] = []
        for action in actions:
            match action:
                case sync_events.Publish(payload, priority):
                    step = mesh_events.PublishBatch(payload, priority)
                    done += self._routed(self.mesh.handle(step, now_ms, wall_ms))
                case sync_events.Send(link, payload, priority):
                    message = mesh_events.SendMessage(link, payload, priority)
                    done += self._routed(self.mesh.handle(message, now_ms, wall_ms))
                case sync_events.DropLink(link, reason):
                    # The mesh hears at once that the link is gone, so that nothing more is written to it meanwhile.
                    done.append(mesh_events.Notice("link.dropped", reason, {"link": link}, "warning"))
                    done.append(mesh_events.Close(link, reason))
                    done += self._routed(self.mesh.handle(mesh_events.ConnClosed(link), now_ms, wall_ms))
                case sync_events.Notice(event, text, detail, level):
                    done.append(mesh_events.Notice(event, text, detail, level))
                case _:
                    assert_never(action)
        return done

    def _rights(self) -> list[ShellAction]:
        """Tell the `Exchange` what members may do, before anything that they have sent."""
        roster = self.mesh.roster
        if roster.version == self._rights_seen:
            return []
        self._rights_seen = roster.version
        limited = roster.limited()
        self._relays = dict(limited).get(roster.own_id) == RELAYS
        return [ToExchange(sync_events.RightsKnown(roster.own_id, limited))]

    def _timed(self) -> list[ShellAction]:
        """Tell the `Exchange` what time it is, where that is news."""
        time, told = self.mesh.mesh_clock.time, self._time
        changes = (time.offset_ms - told.offset_ms, time.apart_ms - told.apart_ms)
        if time.confirmed == told.confirmed and max(map(abs, changes)) < CORRECTED_MS:
            return []
        self._time = time
        return [ToExchange(sync_events.TimeKnown(time.offset_ms, time.confirmed, time.apart_ms))]

    def _routed(self, actions: list[mesh_events.Action]) -> list[ShellAction]:
        """Route the mesh's deliveries; a relay's stop here, it has no tables to bring them to."""
        done = _routed(actions)
        return [action for action in done if not isinstance(action, ToExchange)] if self._relays else done

    def _members(self, now_ms: int) -> list[ShellAction]:
        """Tell the `Exchange` who the members are, from time to time: a mesh that sleeps has no news of them."""
        if self._members_at is None:
            self._members_at = now_ms + MEMBERS_MS  # a node that has just started knows little of others
        if now_ms < self._members_at:
            return []
        self._members_at = now_ms + MEMBERS_MS
        known = tuple((peer.node_id, peer.seen_ms_ago) for peer in self.mesh.peers(now_ms))
        return [ToExchange(sync_events.MembersKnown(known))]

    def next_deadline(self) -> int | None:
        """Return when `TimerFired` is due for the mesh; the `Exchange` keeps its own deadline where it runs."""
        return self.mesh.next_deadline()


def _routed(actions: list[mesh_events.Action]) -> list[ShellAction]:
    """Turn the mesh's deliveries into events of the `Exchange`; shell actions pass unchanged."""
    done: list[ShellAction] = []
    for action in actions:
        match action:
            case mesh_events.LinkUp(link, peer):
                if "relay" not in peer.roles:  # it has no tables to compare
                    done.append(ToExchange(sync_events.LinkOpened(link, peer.node_id)))
                done.append(_link_notice("link.up", f"link with {peer.name} at {peer.address}", link, peer))
            case mesh_events.LinkDown(link, peer, reason):
                done.append(ToExchange(sync_events.LinkClosed(link)))
                done.append(_link_notice("link.down", f"link with {peer.name} is gone: {reason}", link, peer))
            case mesh_events.LinkReady(link):
                done.append(ToExchange(sync_events.LinkWritable(link)))
            case mesh_events.DeliverMessage(link, payload):
                done.append(ToExchange(sync_events.MessageReceived(link, payload)))
            case mesh_events.DeliverBatch(link, origin, payload):
                done.append(ToExchange(sync_events.BatchReceived(link, origin, payload)))
            case (
                mesh_events.Dial()
                | mesh_events.Write()
                | mesh_events.Close()
                | mesh_events.Notice()
                | mesh_events.Enrolled()
                | mesh_events.MembershipChanged()
            ):
                done.append(action)
            case _:
                assert_never(action)
    return done


def _link_notice(event: str, text: str, link: int, peer: mesh_events.PeerInfo) -> mesh_events.Notice:
    detail = {
        "link": link,
        "peer": peer.name,
        "node_id": peer.node_id.hex(),
        "address": str(peer.address),
        "dialled": peer.dialled,
    }
    return mesh_events.Notice(event, text, detail)
