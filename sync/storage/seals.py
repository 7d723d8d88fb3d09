"""The seals of one signed table: made for what this site writes, kept with what others wrote, and sent along with both.

Seals are in a table of their own, by their last clock, as long as one of their changes has an entry. Each has the tokens of its
changes (`wire.seals`): when a program overwrites a value, nothing else of the value is left by which to prove the others.
Tables that are not signed have nothing of this.

Invariant: a change of another node's site has an entry only if a seal here proves it, unless it is from before the table was
signed; such a change is not passed on. ADR 42.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.bundle import Group, Section, filtered
from mycomesh.sync.wire.seals import (
    SEAL_ROWS_MAX,
    Residue,
    Seal,
    leaves,
    tokens_of,
)

__all__ = ["KeysOf", "Seals", "seals_name"]

# Returns the key of each change of a group (`merge.row_keys`).
KeysOf = Callable[[Group], Sequence[Any]]


def seals_name(table_id: int) -> str:
    """Return the name of the table's seals."""
    return f"mycomesh_seals_{table_id}"


class Seals:
    """The seals of one table. Writes are inside the caller's transaction."""

    __slots__ = ("_db", "_keys_of", "_seals", "_signers", "_store", "_table")

    def __init__(self, store: Store, table: str, table_id: int, keys_of: KeysOf) -> None:
        """Take the table's canonical name."""
        self._store = store
        self._db = store.db
        self._signers = store.signers
        self._table = table
        self._keys_of = keys_of
        self._seals = seals_name(table_id)

    def create(self) -> None:
        """Create the table where it is missing."""
        self._db.execute(
            f"CREATE TABLE IF NOT EXISTS {self._seals}(place INTEGER, hlc INTEGER, content BLOB, PRIMARY KEY(place, hlc))"
            " WITHOUT ROWID"
        )

    # ---- what this site writes

    def seal(self, section: Section) -> None:
        """Sign the changes of a section that this site has just stamped, and keep the seals."""
        signed = self._sign(section.groups)
        section.seals = [seal for seal, _ in signed]
        for seal, tokens in signed:
            self._write(seal, tokens)

    def _sign(self, groups: Iterable[Group]) -> list[tuple[Seal, dict[int, Residue]]]:
        """Return the seals of changes, and their tokens."""
        found: dict[bytes, list[tuple[int, bytes, Residue]]] = {}
        for group in groups:
            tokens = tokens_of(group.columns, group.hlcs, group.rows, {})
            made = leaves(group.kind, self._keys_of(group), tokens.values())
            found.setdefault(group.site, []).extend(zip(group.hlcs, made, tokens.values(), strict=True))
        seals = []
        for site, changes in found.items():
            changes.sort(key=lambda change: change[0])
            for at in range(0, len(changes), SEAL_ROWS_MAX):
                some = changes[at : at + SEAL_ROWS_MAX]
                seal = Seal(site, tuple(hlc for hlc, _, _ in some), b"".join(leaf for _, leaf, _ in some), b"")
                seal = replace(seal, signature=self._signers.sign(seal.signed_part(self._table)))
                seals.append((seal, {hlc: tokens for hlc, _, tokens in some}))
        return seals

    # ---- what goes out

    def attach(self, section: Section) -> list[bytes]:
        """Give a section the seals of its changes, leave out those that none proves, and return the signers' certificates."""
        proofs: dict[tuple[bytes, int], tuple[Seal, dict[int, Residue]]] = {}
        groups, unproven = [], []
        for group in section.groups:
            found = self._proofs(group)
            proofs.update(((seal.site, seal.hlcs[-1]), (seal, tokens)) for seal, tokens in found)
            proven = {hlc for _, tokens in found for hlc in tokens}
            flags = [hlc in proven for hlc in group.hlcs]
            if any(flags):
                groups.append(filtered(group, flags))
            if not all(flags) and group.site[:SITE_PREFIX] == self._signers.own:
                # From before the table was signed, or stamped again since: this node is its writer.
                unproven.append(filtered(group, [not flag for flag in flags]))
        sent = {(group.site, hlc): group.columns for group in groups for hlc in group.hlcs}
        section.seals = [_with_residues(seal, tokens, sent) for seal, tokens in proofs.values()]
        section.seals += [seal for seal, _ in self._sign(unproven)]
        section.groups = groups + unproven
        sites = dict.fromkeys(group.site for group in section.groups)
        certificates = (self._signers.certificate_of(site) for site in sites)
        return list(dict.fromkeys(certificate for certificate in certificates if certificate is not None))

    def _proofs(self, group: Group) -> list[tuple[Seal, dict[int, Residue]]]:
        """Return the seals that have changes of a group, and the tokens of their changes."""
        number = self._store.site_number(group.site)
        listing = f"SELECT content FROM {self._seals} WHERE place = ? AND hlc >= ? ORDER BY hlc LIMIT 1"
        found = []
        upto = 0
        for hlc in group.hlcs:
            if hlc <= upto:
                continue
            record = self._db.execute(listing, (number, hlc)).fetchone()
            if record is None:
                break
            seal, tokens = Seal.from_stored(group.site, record[0])
            if hlc >= seal.hlcs[0]:
                found.append((seal, tokens))
                upto = seal.hlcs[-1]
        return found

    # ---- what comes in

    def prove(self, section: Section) -> int:
        """Remove the changes that no valid seal of their site proves, keep the seals of the others; return how many went.

        Raises:
            KeyMismatchError: a key cannot belong to this table.
        """
        valid = [seal for seal in section.seals if self._counts(seal)]
        signed: dict[tuple[bytes, int], tuple[bytes, int]] = {}  # (site, clock): the leaf, and the number of its seal
        residues: dict[bytes, dict[int, Residue]] = {}
        for number, seal in enumerate(valid):
            signed.update(((seal.site, hlc), (leaf, number)) for hlc, leaf in seal.leaf_by_hlc())
            residues.setdefault(seal.site, {}).update(seal.residues)
        refused, groups = 0, []
        proven: dict[int, dict[int, Residue]] = {}
        for group in section.groups:
            tokens = tokens_of(group.columns, group.hlcs, group.rows, residues.get(group.site, {}))
            made = leaves(group.kind, self._keys_of(group), tokens.values())
            flags = []
            for hlc, leaf in zip(group.hlcs, made, strict=True):
                expected, number = signed.get((group.site, hlc), (b"", 0))
                flags.append(leaf == expected)
                if leaf == expected:
                    proven.setdefault(number, {})[hlc] = tokens[hlc]
            refused += flags.count(False)
            if any(flags):
                groups.append(filtered(group, flags))
        section.groups = groups
        if refused:
            section.ranges = []
        for number, known in proven.items():
            self._write(valid[number], known)
        return refused

    def _counts(self, seal: Seal) -> bool:
        """Return True if a seal is its site's, and the site has not signed something greater under the same stamp."""
        known = self._read(seal)
        if known is not None and known[0].core >= seal.core:
            return known[0].core == seal.core
        return self._signers.verify(seal.site, seal.signed_part(self._table), seal.signature)

    def _read(self, seal: Seal) -> tuple[Seal, dict[int, Residue]] | None:
        """Return the seal that is kept with the same site and last clock."""
        listing = f"SELECT content FROM {self._seals} WHERE place = ? AND hlc = ?"
        found = self._db.execute(listing, (self._store.site_number(seal.site), seal.hlcs[-1])).fetchone()
        return None if found is None else Seal.from_stored(seal.site, found[0])

    def _write(self, seal: Seal, tokens: dict[int, Residue]) -> None:
        """Keep a seal with the tokens of some of its changes, beside those that are known."""
        self._signers.save(seal.site)
        known = self._read(seal)
        if known is not None and known[0].core == seal.core:
            tokens = known[1] | tokens
        self._db.execute(
            f"INSERT OR REPLACE INTO {self._seals} VALUES(?, ?, ?)",
            (self._store.site_number_or_new(seal.site), seal.hlcs[-1], seal.stored(tokens)),
        )

    def forget(self, stamps: Iterable[tuple[int, int]], has_entries: Callable[[int, int, int], bool]) -> None:
        """Forget the seals of removed entries, (site number, hlc) each, of which no other entry is left.

        `has_entries` returns whether a site has entries between two clocks.
        """
        listing = f"SELECT hlc, content FROM {self._seals} WHERE place = ? AND hlc >= ? ORDER BY hlc LIMIT 1"
        done: set[tuple[int, int]] = set()
        for number, hlc in stamps:
            found = self._db.execute(listing, (number, hlc)).fetchone()
            if found is None or (number, found[0]) in done:
                continue
            done.add((number, found[0]))
            if not has_entries(number, Seal.from_stored(b"", found[1])[0].hlcs[0], found[0]):
                self._db.execute(f"DELETE FROM {self._seals} WHERE place = ? AND hlc = ?", (number, found[0]))


def _with_residues(seal: Seal, tokens: dict[int, Residue], sent: dict[tuple[bytes, int], tuple[str, ...]]) -> Seal:
    """Return a seal with the tokens of those columns that its changes have lost; `sent` has the columns of each that goes out."""
    residues: dict[int, Residue] = {}
    for hlc, change in tokens.items():
        columns = sent.get((seal.site, hlc))
        if columns is not None and len(columns) < len(change):
            residues[hlc] = {name: each for name, each in change.items() if name not in columns}
    return replace(seal, residues=residues) if residues else seal
