"""The numbers that an application keeps in a file's header, user_version and application_id, as facts.

Applications read their schema's version from user_version, and GDAL and QGIS read the format of a file from both. A file that
got a version's definitions without its number would be upgraded a second time, which fails. So the number is stated in the pass
that states the definitions, and a node takes it over once it has followed them.

`header/NAME` in `mycomesh_meta` remembers the number as the last pass saw it, and the fact that was considered last. This
distinguishes a program's change from a fact that is yet to be followed.
"""

from __future__ import annotations

import json

from mycomesh.sync.schema.policy import HEADER_NUMBERS, header_fact
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.storage.store import Store

__all__ = ["FileHeader"]


class FileHeader:
    """The header numbers of one file."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._seen: tuple[int, ...] = ()  # in the last pass

    @property
    def stale(self) -> bool:
        """True if a program has set a number since the last pass."""
        return self._numbers() != self._seen

    def rolled_back(self) -> None:
        """Look again."""
        self._seen = ()

    def renew(self) -> None:
        """State the numbers that a program has set, and take over those of the mesh; inside a transaction.

        user_version only rises because of another node: of two upgrades at once the higher number holds. An application_id
        is taken over by a file that has none.
        """
        for name, here in zip(HEADER_NUMBERS, self._numbers(), strict=True):
            own, key = here, f"header/{name}"
            before = json.loads(self._store.meta(key) or "null")
            known, considered = before or (0, 0)
            stated = self._registry.policies.header.get(name, 0)
            is_version = name == "user_version"
            if own and (own > stated if is_version else own not in (known, stated)) and [own, stated] != before:
                self._registry.facts.write(*header_fact(name, own), early=before is None)
                stated = own
            elif self._registry.behind:
                continue
            elif own == known and stated != considered and (stated > own if is_version else not own):
                self._store.db.execute(f"PRAGMA {name} = {stated}").fetchall()
                self._store.wal.request_checkpoint()
                own = stated
            if before != [own, stated]:
                self._store.meta_set(key, json.dumps([own, stated]))
        self._seen = self._numbers()

    def _numbers(self) -> tuple[int, ...]:
        return tuple(int(self._store.db.execute(f"PRAGMA {name}").fetchone()[0]) for name in HEADER_NUMBERS)
