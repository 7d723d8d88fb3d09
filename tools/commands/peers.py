"""`mycomesh peers`: the members that the running node knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.node.ask import ask
from mesh.node.status import PeerView, from_json
from tools import exits
from tools.render import duration, print_json, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mesh.node.home import Home

__all__ = ["add_arguments", "run", "show_peers"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="a JSON array, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Print one row a member."""
    answer = ask(home, "status")
    if args.json:
        print_json(answer["peers"])
    else:
        show_peers(from_json(answer).peers)
    return exits.DONE


def show_peers(peers: Sequence[PeerView]) -> None:
    """Print the members as a table."""
    print_table(
        ("PEER", "STATE", "EQUAL", "ADDRESS", "RTT", "OFFSET", "SENT", "RECEIVED"), [_row(peer) for peer in peers]
    )


def _row(peer: PeerView) -> tuple[str, ...]:
    equal = _equal(peer)
    rtt = "-" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms"
    offset = "-" if peer.offset_ms is None else f"{peer.offset_ms:+.0f} ms"
    state = peer.state if peer.seen_ms_ago is None else f"{peer.state} ({duration(peer.seen_ms_ago)} ago)"
    return (peer.name, state, equal, peer.address or "-", rtt, offset, str(peer.sent_bytes), str(peer.received_bytes))


def _equal(peer: PeerView) -> str:
    """Whether the peer holds the same, and while rows come from it, how far that is."""
    if peer.catching_up is None:
        return "-" if peer.equal is None else "yes" if peer.equal else "no"
    rows, expected, left_ms = peer.catching_up.rows, peer.catching_up.expected, peer.catching_up.left_ms
    share = f" of {expected}" if expected else ""
    left = "" if left_ms is None else f", {duration(left_ms)} left"
    return f"no: {rows}{share} rows, {peer.catching_up.received_bytes} bytes{left}"
