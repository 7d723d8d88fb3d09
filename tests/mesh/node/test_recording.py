"""Recordings replayed: a replay ends, says what was left, and leaves alone what it was not asked for."""

import asyncio

import pytest

from mycomesh.mesh.node import recording
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.recording import AUDIT, PASSES_MAX, record, replay
from mycomesh.mesh.node.virtual_links import VirtualLinks
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.events import DropLink, LinkOpened, MessageReceived, Send
from mycomesh.sync.wire import messages as wire
from tests.mesh.node.surroundings import StillSurroundings

AUTHOR, SITE = b"a" * 16, b"s" * 16
DONE = wire.Done((("t", Vector({SITE: [(0, 9)]})),), ())


class Behind:
    """A replica that lacks the tables that `lacks` yields, one list a question."""

    inbox = type("Inbox", (), {"renew_site_if_behind": staticmethod(lambda _: False)})


def replayed(monkeypatch, lacks, answer, leave=()):
    """Replay to an exchange that answers each message as `answer` says; return what was left, and the links opened."""
    questions, opened = iter(lacks), []
    monkeypatch.setattr(recording, "lacking", lambda *_: next(questions))

    def submit(event):
        if isinstance(event, LinkOpened):
            opened.append(event)
        elif isinstance(event, MessageReceived):
            links.take([answer(event.link, wire.decode(event.payload))])

    async def chunks():
        yield wire.encode(wire.Chunk(b"bundle"))

    links = VirtualLinks(submit)
    work = replay(StillSurroundings(Behind()), links, AUTHOR, DONE, chunks, leave)
    return asyncio.run(work), opened


def willing(link, message):
    match message:
        case wire.Digests():
            return Send(link, wire.encode(wire.Vectors(tuple((name, Vector()) for name, _, _ in message.tables))))
        case wire.Chunk():
            return Send(link, wire.encode(wire.Ack(1)))
        case _:
            return Send(link, wire.encode(wire.Digests(())))


def test_a_replay_ends_once_nothing_is_lacking(monkeypatch):
    assert replayed(monkeypatch, [["t"], [], []], willing) == ({}, [LinkOpened(1 << 48, AUTHOR)])
    assert replayed(monkeypatch, [[]], willing) == ({}, [])
    assert replayed(monkeypatch, [["t"]], willing, leave=("t",)) == ({}, [])


def test_a_reader_that_never_has_enough_is_ended(monkeypatch):
    settle = recording.SETTLE_MS // recording.SETTLE_STEP_MS
    lacks = [[f"t{number // (settle + 1)}"] for number in range((settle + 1) * (PASSES_MAX + 2))]
    left, opened = replayed(monkeypatch, lacks, willing)
    assert len(opened) <= PASSES_MAX
    assert list(left.values()) == ["some tables are not here yet"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda link, message: DropLink(link, "broken"), "the node dropped it: broken"),
        (lambda _link, _message: Send(7, b"to another"), "another round fetches the tables at the moment"),
        (
            lambda link, message: willing(link, message) if isinstance(message, wire.Digests) else Send(7, b""),
            "the file takes no rows now; see 'mycomesh status'",
        ),
        (
            lambda link, message: (
                Send(link, wire.encode(wire.AuditRequest("t", SITE, 0, 9)))
                if isinstance(message, wire.Done)
                else willing(link, message)
            ),
            AUDIT,
        ),
    ],
)
def test_a_replay_says_why_it_was_not_taken(monkeypatch, answer, why):
    assert replayed(monkeypatch, [["t"]] * 200, answer)[0] == {"t": why}


def test_a_file_that_cannot_be_read_is_no_recording():
    links = VirtualLinks(lambda event: links.take([DropLink(event.link, "closing")]))
    with pytest.raises(NodeError, match="could not be read: closing"):
        asyncio.run(record(StillSurroundings(), links, lambda _: {}, None))
