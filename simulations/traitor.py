"""A member that lies: falsifies what the real core of one node says, as a captured member's altered program could.

Each lie changes messages or batches on their way from the core to the mesh, which signs and encrypts them like any others. So
every lie is one that the mesh's cryptography lets through. A lie that would only harm its teller is not here.

Invariant: the traitor's own file and core are honest. The seed decides every lie.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mycomesh.sync.crdt.hlc import HLC_MAX, SITE_PREFIX, hlc_from_ms
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import SyncError
from mycomesh.sync.events import Action, Event, MessageReceived, Publish, Send
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.storage.change_log import unpack_mask
from mycomesh.sync.storage.table import insert_key
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from mycomesh.sync.wire.seals import Seal
from mycomesh.sync.wire.units import split_unit

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence

    from mycomesh.sync.replica import Replica

__all__ = ["FORGED", "HIDDEN", "LIES", "LIES_ABOUT_AREAS", "Traitor"]

# The kinds of lies.
LIES = ("digests", "vectors", "audits", "marks", "sites", "facts", "stamps", "batches", "withhold", "rows")
LIES_ABOUT_AREAS = ("areas",)  # of a member that may write some areas of a table: its rows and deletes are of others
FORGED = "forged"  # the text of rows in another's name
HIDDEN = "hidden"  # the text of rows in a section of another area
SHARE = 0.5  # of the messages and batches that a lie applies to
SOON_MS = 50_000  # within the drift that members accept
FAR_MS = 10 * 365 * 86_400_000
# Statements about the schema that must have no effect, or one that does not touch rows.
FACTS = (
    ("missions", "table", "CREATE TABLE missions AS SELECT * FROM alerts"),
    ("alerts", "table", "DELETE FROM alerts"),
    ("index:x", "index", "CREATE INDEX x ON missions(randomblob(id))"),
    ("index:y", "index", "CREATE UNIQUE INDEX y ON drones(drone_id)"),
    ('policy:["no such table"]', "policy", "keep-both"),
    ('counter:["missions","no such column"]', "counter", ""),
    ('dropped:["mycomesh_schema"]', "dropped", ""),
    ('name:["missions"]', "name", "mycomesh_schema"),
    ("floor", "floor", "1.0"),
    ("made up", "of no kind", "x" * 100),
    ('retain:["no such table"]', "retain", '{"age_ms": 1000}'),
    ('retain:["missions"]', "retain", '{"age_ms": 0, "floor_ms": 9223372036854775807}'),
    ('retain:["missions"]', "retain", '{"age_ms": 1000, "by": "no such column"}'),
    ('area:["missions"]', "area", "no such column"),
    ('area:["no such table"]', "area", "x"),
    ('interest:["eeeeeeeeeeeeeeee"]', "interest", '{"keeps":{"missions":[]}}'),
    ('adopted:["00000000000000000000000000000000"]', "adopted", "9"),
    ('own-ids:["no such table"]', "own-ids", "own-ids"),
)


class Traitor:
    """The lies of one node."""

    def __init__(self, lies: Sequence[str], rng: random.Random, replica: Replica) -> None:
        """Take the names of the lies, the source of all choices, and the replica whose words are falsified."""
        self._lies = frozenset(lies)
        self._rng = rng
        self._replica = replica
        self._heard: dict[int, wire.Digests] = {}  # link -> what its peer has said last
        self._published: list[bytes] = []
        self._last = 0  # the last clock that was made up
        self.told = 0  # how many lies
        self.made_up: dict[tuple[str, str], None] = {}  # rows (table, key) that no application has written so

    def hear(self, event: Event) -> None:
        """Remember what can be parroted."""
        if isinstance(event, MessageReceived):
            try:
                message = wire.decode(event.payload)
            except SyncError:
                return
            if isinstance(message, wire.Digests):
                self._heard[event.link] = message

    def falsify(self, actions: list[Action], wall_ms: int) -> list[Action]:
        """Return what the mesh gets in place of these actions."""
        said: list[Action] = []
        for action in actions:
            match action:
                case Send(link, payload):
                    said.append(replace(action, payload=self._message(link, payload, wall_ms)))
                case Publish(payload):
                    self._published = [*self._published[-20:], payload]
                    said += [replace(action, payload=batch) for batch in self._batches(payload, wall_ms)]
                case _:
                    said.append(action)
        return said

    def _tells(self, lie: str, share: float = SHARE) -> bool:
        if lie not in self._lies or self._rng.random() >= share:
            return False
        self.told += 1
        return True

    # ---- messages of rounds

    def _message(self, link: int, payload: bytes, wall_ms: int) -> bytes:
        message = wire.decode(payload)
        match message:
            case wire.Digests():
                message = self._digests(link, message)
            case wire.Vectors(vectors) if self._tells("vectors"):
                message = wire.Vectors(self._vectors(vectors, wall_ms))
            case wire.Done(vectors, collected):
                if self._tells("vectors"):
                    vectors = self._vectors(vectors, wall_ms)
                if self._tells("marks"):
                    collected = tuple((name, self._everything(vector, wall_ms)) for name, vector in vectors)
                message = wire.Done(vectors, collected)
            case wire.AuditReply(_, _, _, _, runs) if self._tells("audits"):
                message = replace(message, runs=() if self._rng.random() < 0.5 else runs[: len(runs) // 4 * 2])
            case wire.Chunk(bundle) | wire.RepairRows(bundle):
                message = replace(message, bundle=self._rows(bundle))
            case wire.CoverageReply(_, tables, _) if self._tells("vectors"):
                message = replace(message, tables=tuple((name, HLC_MAX >> 1) for name, _ in tables))
            case _:
                return payload
        return wire.encode(message)

    def _digests(self, link: int, message: wire.Digests) -> wire.Digests:
        """Say that all is equal, or that what is equal differs, with the vector of the peer or another one."""
        if not self._tells("digests"):
            return message
        heard = self._heard.get(link)
        if heard is not None and self._rng.random() < 0.5:
            return replace(heard, answer=message.answer)
        theirs = {name: vector for name, vector, _ in heard.tables} if heard is not None else {}
        tables = tuple(
            (name, theirs.get(name, self._rng.randbytes(8)), self._rng.randbytes(16)) for name, _, _ in message.tables
        )
        return replace(message, tables=tables)

    def _vectors(self, vectors: tuple[tuple[str, Vector], ...], wall_ms: int) -> tuple[tuple[str, Vector], ...]:
        """Claim to cover writes that this node lacks: of a site, ahead of it, or of a made-up site; or forget a site."""
        said = []
        for name, vector in vectors:
            mine = vector.copy()
            sites = [site for site, _ in vector.items()]
            site = self._rng.choice(sites) if sites else self._replica.site
            match self._rng.randrange(4):
                case 0:
                    mine.add(site, 0, hlc_from_ms(wall_ms))
                case 1:
                    mine.add(site, vector.top(site), vector.top(site) + self._rng.randrange(1, 1 << 30))
                case 2 if "sites" in self._lies:
                    mine.add(self._rng.randbytes(16), 0, hlc_from_ms(wall_ms))
                case _:
                    mine = Vector({other: ranges for other, ranges in vector.items() if other != site})
            said.append((name, mine))
        return tuple(said)

    def _everything(self, vector: Vector, wall_ms: int) -> Vector:
        """Claim that every tombstone of each site was collected."""
        return Vector({site: [(0, hlc_from_ms(wall_ms))] for site, _ in vector.items()})

    def _rows(self, bundle: bytes) -> bytes:
        """Return less of a bundle, or other rows in the names of those who wrote them."""
        if self._tells("withhold"):
            bundle = self._less(bundle)
        return self._forged(bundle) if self._tells("rows") else bundle

    def _forged(self, bundle: bytes) -> bytes:
        """Alter some change in a signed table; in others the sender of a round vouches for its rows (docs/SECURITY.md)."""
        found = Bundle.decode(bundle)
        for section in found.sections:
            table = self._replica.tables.get(section.table)
            own = self._replica.site[:SITE_PREFIX]
            groups = [group for group in section.groups if group.site[:SITE_PREFIX] != own]
            if table is None or table.seals is None or not groups:
                continue
            group = self._rng.choice(groups)
            match self._rng.randrange(7):
                case 0:
                    group.rows = [[FORGED if isinstance(value, str) else value for value in row] for row in group.rows]
                case 1:
                    keys = group.keys or keys_of(table, group)
                    dead = Group(group.site, Kind.DELETE, (), group.hlcs, keys, [[] for _ in keys], None)
                    section.groups[section.groups.index(group)] = dead
                case 2:
                    group.hlcs = [hlc + 1 for hlc in group.hlcs]
                case 3:
                    group.site = self._rng.choice([site for site, _ in self._replica.vector(section.table).items()])
                case 4 if isinstance(group.keys, list) and isinstance(group.keys[0], int):
                    group.keys = [key + 1 for key in group.keys]
                case 5:
                    section.seals = []
                case _:
                    section.seals = [self._resealed(section.table, seal) for seal in section.seals]
        return found.encode()

    def _resealed(self, table: str, seal: Seal) -> Seal:
        """Return a seal with other leaves, signed by the traitor in the name of the site."""
        other = replace(seal, leaves=self._rng.randbytes(len(seal.leaves)))
        return replace(other, signature=self._replica.store.signers.sign(other.signed_part(table)))

    def _less(self, bundle: bytes) -> bytes:
        """Leave out one group of each section, and keep what the ranges say."""
        found = Bundle.decode(bundle)
        for section in found.sections:
            if section.groups:
                section.groups.pop(self._rng.randrange(len(section.groups)))
        found.sections = [section for section in found.sections if section.groups]
        return found.encode() if found.sections else bundle

    # ---- live batches

    def _batches(self, payload: bytes, wall_ms: int) -> list[bytes]:
        """Return what is published in place of a batch: more, less, or something else."""
        said = [payload]
        if self._tells("areas"):
            said = [self._of_other_areas(payload)]
        if self._tells("batches"):
            forms: tuple[Callable[[bytes], list[bytes]], ...] = (
                lambda _: [],
                lambda batch: [batch, self._other_values(batch)],
                lambda batch: [self._other_values(batch), batch],
                lambda batch: [self._other_rows(batch), batch],
                lambda batch: [*self._published, batch],
                lambda batch: [batch[:-1], batch],
                lambda batch: [self._rng.randbytes(100), batch],
                lambda batch: [self._wide_ranges(batch)],
            )
            said = self._rng.choice(forms)(payload)
        if self._tells("stamps"):
            hlc = self._rng.choice((1, hlc_from_ms(wall_ms + SOON_MS), hlc_from_ms(wall_ms + FAR_MS), HLC_MAX))
            said.append(self._made_up("missions", self._replica.site, hlc))
        if self._tells("sites"):
            known = [site for site, _ in self._replica.vector("missions").items()]
            own = self._replica.site[:SITE_PREFIX] + self._rng.randbytes(8)
            site = self._rng.choice([*known, own])
            said.append(self._made_up("missions", site, hlc_from_ms(wall_ms)))
        if self._tells("facts"):
            said.append(self._fact(wall_ms))
        return said

    def _of_other_areas(self, batch: bytes) -> bytes:
        """Return the batch with rows of other areas, or deletes of rows there, in the sections of its own areas."""
        found = Bundle.decode(batch)
        for section in found.sections:
            name, own = split_unit(section.table) or ("", "")
            areas = self._replica.tables[name].areas if name in self._replica.tables else None
            others = [] if areas is None else [area for area in areas.known() if area != own]
            if areas is None or not others:
                continue
            area = self._rng.choice(others)
            victims = self._inserts(name, area) if self._rng.random() < 0.5 else []
            for group in section.groups:
                if victims:
                    keys = [self._rng.choice(victims) for _ in group.hlcs]
                    group.kind, group.columns, group.keys, group.priors = Kind.DELETE, (), keys, None
                    group.rows = [[] for _ in keys]
                elif group.kind is Kind.INSERT and areas.column in group.columns:
                    at = group.columns.index(areas.column)
                    texts = [[HIDDEN if isinstance(value, str) else value for value in row] for row in group.rows]
                    group.rows = [[*row[:at], int(area), *row[at + 1 :]] for row in texts]
        return found.encode()

    def _inserts(self, name: str, area: str) -> list[bytes]:
        """Return the keys of rows of an area that this node has, each the stamp of an insert."""
        table = self._replica.tables[name]
        assert table.areas is not None
        stored = [entry for number in table.areas.numbers(area) for entry in table.log.scan_site(number, -1, 20)]
        found = ((table.store.site(number), hlc, unpack_mask(mask)) for number, hlc, _, mask in stored)
        return [insert_key(site, hlc) for site, hlc, (mask, dead) in found if mask & EXISTENCE and not dead]

    def _other_values(self, batch: bytes) -> bytes:
        """Return the batch with other values under the same stamps."""
        found = Bundle.decode(batch)
        for section in found.sections:
            if section.table != SCHEMA_TABLE:
                for group in section.groups:
                    group.rows = [[self._altered(value) for value in row] for row in group.rows]
        return found.encode()

    def _altered(self, value: object) -> object:
        return f"other {self._rng.randrange(9)}" if isinstance(value, str) and value.startswith("<w") else value

    def _other_rows(self, batch: bytes) -> bytes:
        """Return the batch with the same stamps for other rows, none of whose values their writer has seen."""
        found = Bundle.decode(batch)
        for section in found.sections:
            if section.table == "missions":
                for group in section.groups:
                    group.priors = None
                    if group.kind is not Kind.INSERT and group.keys:
                        group.keys = [1 + (key + self._rng.randrange(1, 4)) % 12 for key in group.keys]
                        self._note_made_up(group.keys)
                    elif "id" in group.columns:
                        at = group.columns.index("id")
                        group.rows = [[*row[:at], 1 + row[at] % 12, *row[at + 1 :]] for row in group.rows]
                        self._note_made_up(row[at] for row in group.rows)
        return found.encode()

    def _note_made_up(self, keys: Iterable[int]) -> None:
        self.made_up.update(dict.fromkeys(("missions", str(key)) for key in keys))

    def _wide_ranges(self, batch: bytes) -> bytes:
        """Return the batch with ranges that begin at 0, although earlier batches may not have arrived."""
        found = Bundle.decode(batch)
        for section in found.sections:
            section.ranges = [(site, 0, upto) for site, _, upto in section.ranges]
        return found.encode()

    def _made_up(self, table: str, site: bytes, hlc: int) -> bytes:
        """Return a batch with one insert under a stamp that nothing here has; of another's site, `FORGED`."""
        key = self._rng.randrange(1, 12)
        self._note_made_up([key])
        text = "made up" if site[:SITE_PREFIX] == self._replica.site[:SITE_PREFIX] else FORGED
        group = Group(site, Kind.INSERT, ("birth", "id", "note"), [hlc], None, [[text, key, text]], None)
        return Bundle([Section(table, [(site, hlc - 1, hlc)], [group])]).encode()

    def _fact(self, wall_ms: int) -> bytes:
        """Return a batch with one statement about the schema."""
        self._last = max(self._last + 1, hlc_from_ms(wall_ms))
        name, kind, sql = self._rng.choice(FACTS)
        group = Group(
            self._replica.site, Kind.INSERT, ("kind", "name", "sql"), [self._last], None, [[kind, name, sql]], None
        )
        return Bundle([Section(SCHEMA_TABLE, [(self._replica.site, self._last - 1, self._last)], [group])]).encode()
