"""The node's core: translates between the events of a `MeshCore` (network) and of an `Exchange` (database), without I/O.

The core never calls the `Exchange`. It returns `ToExchange` events instead, because the daemon runs the `Exchange` on its SQL
thread and the simulator runs it at once; both return its actions through `on_exchange`. The core also tells the `Exchange` who
the members are, what they may do and what time the mesh has.

Invariant: actions come out in the order in which they must be performed.
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
    """Handle this event in the `Exchange`, then pass its actions to `NodeCore.on_exchange`."""

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


# How often the `Exchange` learns who the members are and when each was last seen. It acts on silences of days.
MEMBERS_MS = 60_000

# The `Exchange` learns about a changed clock offset only if the change is at least this large.
TIME_CHANGE_MS = 1_000

RELAY_RIGHTS = (("*", "-"),)  # a relay stores no tables


class KnownMember(Protocol):
    """The part of a `PeerStatus` that the core reads."""

    @property
    def node_id(self) -> bytes:
        """Its 16-byte node id."""
        ...

    @property
    def seen_ms_ago(self) -> int | None:
        """Milliseconds since a sign of it last reached this node, None for never."""
        ...


class KnownRights(Protocol):
    """The part of a `Roster` that the core reads."""

    version: int  # increases whenever rights or purges may have changed

    @property
    def own_id(self) -> bytes:
        """This node's 16-byte id."""
        ...

    def restricted_rights(self) -> tuple[tuple[bytes, tuple[tuple[str, str], ...]], ...]:
        """Return the members with limited rights: node id and (table pattern, right) pairs."""
        ...

    def take_admitted(self) -> tuple[bytes, ...]:
        """Return the certificates of members that are new since the last call."""
        ...

    def purge_orders(self) -> tuple[tuple[bytes, int], ...]:
        """Return the revoked nodes whose writes since a time (Unix milliseconds) are dropped."""
        ...


class KnownTime(Protocol):
    """The part of a `MeshClock` that the core reads."""

    time: MeshTime


class MeshMachine(Protocol):
    """The part of a `MeshCore` that the core uses."""

    def handle(self, event: mesh_events.Event, now_ms: int, wall_ms: int) -> list[mesh_events.Action]:
        """Handle one event; return the actions in the order in which they must be performed."""
        ...

    def next_deadline(self) -> int | None:
        """Return the monotonic millisecond at which `TimerFired` is due, or None."""
        ...

    def peers(self, now_ms: int) -> Sequence[KnownMember]:
        """Return every other member."""
        ...

    @property
    def roster(self) -> KnownRights:
        """The members and their rights."""
        ...

    @property
    def mesh_clock(self) -> KnownTime:
        """This node's clock compared with its peers' clocks."""
        ...


class NodeCore:
    """Routes events between one `MeshCore` and one `Exchange`; synchronous, without I/O."""

    __slots__ = ("_is_relay", "_judged", "_members_due_ms", "_rights_version", "_time", "mesh")

    def __init__(self, mesh: MeshMachine) -> None:
        self.mesh = mesh
        self._members_due_ms: int | None = None
        self._rights_version = 0
        self._time = MeshTime()
        self._judged = self._time  # the last one that was compared with it
        self._is_relay = False  # a relay forwards batches and stores no tables

    def handle(self, event: mesh_events.Event, now_ms: int, wall_ms: int) -> list[ShellAction]:
        """Handle one event of the network; return the actions that the shell must perform, in order."""
        actions = self.mesh.handle(event, now_ms, wall_ms)
        return self._rights_events() + self._time_events() + self._routed(actions) + self._member_events(now_ms)

    def on_exchange(self, actions: list[sync_events.Action], now_ms: int, wall_ms: int) -> list[ShellAction]:
        """Handle the `Exchange`'s actions for one or more `ToExchange` events; return what the shell must perform."""
        done: list[ShellAction] = []
        for action in actions:
            match action:
                case sync_events.Publish(payload, priority):
                    step = mesh_events.PublishBatch(payload, priority)
                    done += self._routed(self.mesh.handle(step, now_ms, wall_ms))
                case sync_events.Send(link, payload, priority, optional, deferrable):
                    message = mesh_events.SendMessage(link, payload, priority, optional, deferrable)
                    done += self._routed(self.mesh.handle(message, now_ms, wall_ms))
                case sync_events.InterestsStated(own, members, held, copies):
                    stated = mesh_events.StateInterests(own, members, held, copies)
                    done += self._routed(self.mesh.handle(stated, now_ms, wall_ms))
                case sync_events.DropLink(link, reason):
                    # The mesh learns at once that the link is gone, so that it writes nothing more to it meanwhile.
                    done.append(mesh_events.Notice("link.dropped", reason, {"link": link}, "warning"))
                    done.append(mesh_events.Close(link, reason))
                    done += self._routed(self.mesh.handle(mesh_events.ConnClosed(link), now_ms, wall_ms))
                case sync_events.Notice(event, text, detail, level):
                    done.append(mesh_events.Notice(event, text, detail, level))
                case _:
                    assert_never(action)
        return done

    def _rights_events(self) -> list[ShellAction]:
        """Tell the `Exchange` about changed rights. These events go first, so that they apply to whatever members send."""
        roster = self.mesh.roster
        if roster.version == self._rights_version:
            return []
        self._rights_version = roster.version
        limited = roster.restricted_rights()
        self._is_relay = dict(limited).get(roster.own_id) == RELAY_RIGHTS
        known = sync_events.RightsKnown(roster.own_id, limited, roster.take_admitted(), roster.purge_orders())
        return [ToExchange(known)]

    def _time_events(self) -> list[ShellAction]:
        """Tell the `Exchange` the mesh's time, if it has changed by `TIME_CHANGE_MS` or was confirmed."""
        time, last = self.mesh.mesh_clock.time, self._time
        if time is self._judged:
            return []
        self._judged = time
        changes = (time.offset_ms - last.offset_ms, time.apart_ms - last.apart_ms)
        if time.confirmed == last.confirmed and max(map(abs, changes)) < TIME_CHANGE_MS:
            return []
        self._time = time
        return [ToExchange(sync_events.TimeKnown(time.offset_ms, time.confirmed, time.apart_ms))]

    def _routed(self, actions: list[mesh_events.Action]) -> list[ShellAction]:
        """Route the mesh's actions; on a relay, which has no tables, drop the events for the `Exchange`."""
        routed = _routed(actions)
        return [action for action in routed if not isinstance(action, ToExchange)] if self._is_relay else routed

    def _member_events(self, now_ms: int) -> list[ShellAction]:
        """Tell the `Exchange` who the members are, every `MEMBERS_MS` or at the next event after that."""
        if self._members_due_ms is None:
            self._members_due_ms = now_ms + MEMBERS_MS  # right after a start the node knows little about other members
        if now_ms < self._members_due_ms:
            return []
        self._members_due_ms = now_ms + MEMBERS_MS
        known = tuple((peer.node_id, peer.seen_ms_ago) for peer in self.mesh.peers(now_ms))
        return [ToExchange(sync_events.MembersKnown(known))]

    def next_deadline(self) -> int | None:
        """Return when `TimerFired` is due for the mesh. The deadline of the `Exchange` is kept where it runs."""
        return self.mesh.next_deadline()


def _routed(actions: list[mesh_events.Action]) -> list[ShellAction]:
    """Turn the mesh's deliveries into events of the `Exchange`; pass shell actions unchanged."""
    done: list[ShellAction] = []
    for action in actions:
        match action:
            case mesh_events.LinkUp(link, peer):
                if "relay" not in peer.roles:  # a relay has no tables to compare
                    done.append(ToExchange(sync_events.LinkOpened(link, peer.node_id, peer.metered)))
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
