"""Virtual links: what the exchange says on them goes to their holder, and nothing of it to the mesh."""

import asyncio

from mycomesh.mesh.node.virtual_links import NUMBERS_FROM, VirtualLinks
from mycomesh.sync.events import DropLink, LinkClosed, LinkOpened, MessageReceived, Publish, Send
from tests.mesh.node.surroundings import StillSurroundings


def test_a_link_is_opened_fed_and_closed():
    events = []
    links = VirtualLinks(events.append)
    with links.open(b"p" * 16) as first, links.open(b"q" * 16):
        first.send(b"hello")
    assert events == [
        LinkOpened(NUMBERS_FROM, b"p" * 16),
        LinkOpened(NUMBERS_FROM + 1, b"q" * 16),
        MessageReceived(NUMBERS_FROM, b"hello"),
        LinkClosed(NUMBERS_FROM + 1),
        LinkClosed(NUMBERS_FROM),
    ]


def test_other_actions_pass_in_their_order():
    links = VirtualLinks(lambda _: None)
    others = [Publish(b"batch", 1), Send(7, b"to a peer"), DropLink(8, "broken")]
    with links.open(b"p" * 16) as link:
        mixed = [others[0], Send(NUMBERS_FROM, b"mine"), others[1], DropLink(NUMBERS_FROM, "broken"), others[2]]
        assert links.take(mixed) == others

        async def received():
            around = StillSurroundings()
            return [await link.receive(around, 5_000) for _ in range(3)]

        assert asyncio.run(received()) == [b"mine", "broken", None]
    assert links.take([Send(NUMBERS_FROM, b"late")]) == []
