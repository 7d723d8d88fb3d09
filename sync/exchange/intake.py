"""Intake: whether this file takes in rows of other nodes, and if not, why and since when.

The intake closes while another program has the file locked, while the disk refuses writes, and while the disk has less free
space than the floor, which is kept for the application. Peers wait meanwhile: their streams get no acknowledgement.

Invariants: a closed intake tries the file again at a bounded rate, and opens as soon as it can write; each closing and
opening is reported once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mycomesh.sync.errors import DatabaseBusyError, DatabaseError, FileReplacedError
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.storage.store import Store

__all__ = ["FileTrouble", "Host", "Intake"]

# How often a locked file is tried. A program that waits for the node sees its rows this late.
LOCKED_MS = 250
# A lock of this age is reported. Transactions of programs that nobody needs to look at take less.
LOCK_NOTICE_MS = 5_000
# The first pause after the disk refused a write; each further refusal doubles it, because a refused write costs work.
REFUSED_MS, REFUSED_MS_MAX = 1_000, 16_000
# After this long without a refusal the pause starts at its shortest again.
REFUSED_RESET_MS = 60_000
# How often the free space is looked up: one system call, while rows come in. A stream fills some 10 MB in this time.
SPACE_MS = 500
# Below the floor the intake opens only once there is a quarter more than it: the application writes all the time.
FLOOR_MARGIN = 4
# How often the holder of a lock is looked up: the search reads /proc.
HOLDER_MS = 10_000
# The same trouble is reported again after this long: it may last for days, and logs are rotated.
NOTICE_MS = 3_600_000
# ... and after this long if the file took writes in between: a damaged page is met again and again.
FLAPPING_MS = 60_000


def _unknown() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Host:
    """The machine's knowledge about the file.

    free_bytes: returns the free space of the file's disk for this process, None if it is not known.
    free_bytes_min: the floor: with less free space than this the file takes in no rows of other nodes.
    lock_holder: returns who has the file locked, as "NAME (process PID)"; "" if that is not known.
    """

    free_bytes: Callable[[], int | None] = _unknown
    free_bytes_min: int = 0
    lock_holder: Callable[[], str] = str


@dataclass(frozen=True, slots=True)
class FileTrouble:
    """Why the file takes in no rows: the code of its notice, one line for people, and since when (Unix milliseconds)."""

    code: str
    text: str
    since_ms: int


LOCKED, REFUSED, LOW = "database.locked", "database.refused", "disk.low"


class Intake:
    """Watches one file. The owner calls `observe` after each use of the file and `on_timer` when `next_deadline` has come."""

    def __init__(self, store: Store, host: Host, on_free: Callable[[int | None], None] = lambda _: None) -> None:
        """Watch the file of a store. `on_free` gets the free space in bytes, None if it is not known, at each look."""
        self._store = store
        self._host = host
        self._on_free = on_free
        self.trouble: FileTrouble | None = None
        self._refusals = 0  # of the store, when it was last observed
        self._refused_at = 0
        self._pause_ms = REFUSED_MS
        self._try_at: int | None = None
        self._space_at = 0  # when to look up the free space
        self._holder_at = 0  # when to look up who has the file locked
        self._began_ms = 0  # monotonic, as all of these
        self._notice_at = 0
        self._notified_at: dict[str, int] = {}  # by code
        self._notified = False

    @property
    def is_open(self) -> bool:
        """True if rows of other nodes may be taken in."""
        return self.trouble is None

    @property
    def pause_ms(self) -> int:
        """How long the owner should leave the file alone after an error, so that it neither spins nor blocks its thread."""
        return 0 if self.trouble is None else LOCKED_MS if self.trouble.code == LOCKED else REFUSED_MS

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due; None while the intake is open."""
        return self._try_at

    def check_space(self, turn: Turn) -> None:
        """Close the intake if the free space is below the floor; cheap enough for every batch."""
        if self.trouble is None and turn.now_ms >= self._space_at:
            self._space_at = turn.now_ms + SPACE_MS
            free = self._host.free_bytes()
            self._on_free(free)
            if free is not None and free < self._host.free_bytes_min:
                self._close(LOW, self._low_text(free), REFUSED_MS, turn)

    def observe(self, turn: Turn) -> bool:
        """Learn whether the file has refused or taken a write since the last call; return True if the intake opens."""
        refusal = self._store.refusal
        if refusal is None:
            if self.trouble is None or self.trouble.code == LOW:
                return False
            self._open(turn)
            return True
        if self._store.refusals != self._refusals:
            self._refusals = self._store.refusals
            self._on_refusal(refusal, turn)
        return False

    def on_timer(self, turn: Turn) -> bool:
        """Try the file if that is due; return True if the intake opens."""
        if self._try_at is None or turn.now_ms < self._try_at or self.trouble is None:
            return False
        if self.trouble.code != LOCKED and not self._has_room():
            self._try_at = turn.now_ms + REFUSED_MS
            self._notify(turn)
            return False
        if self.trouble.code == LOW:
            self._open(turn)
            return True
        try:
            with self._store.transaction():
                pass  # an empty transaction, because only a commit shows that the file takes writes
        except DatabaseError as error:
            if isinstance(error, FileReplacedError):
                raise
        return self.observe(turn)

    def _has_room(self) -> bool:
        free, floor = self._host.free_bytes(), self._host.free_bytes_min
        return free is None or free >= floor + floor // FLOOR_MARGIN

    def _on_refusal(self, refusal: DatabaseError, turn: Turn) -> None:
        if isinstance(refusal, DatabaseBusyError):
            self._close(LOCKED, self._locked_text(""), LOCKED_MS, turn)
            return
        if turn.now_ms - self._refused_at >= REFUSED_RESET_MS:
            self._pause_ms = REFUSED_MS
        self._refused_at = turn.now_ms
        self._close(REFUSED, str(refusal), self._pause_ms, turn)
        self._pause_ms = min(2 * self._pause_ms, REFUSED_MS_MAX)

    def _close(self, code: str, text: str, pause_ms: int, turn: Turn) -> None:
        """Close the intake for this reason, or keep it closed and try again later."""
        if self.trouble is None or self.trouble.code != code:
            self.trouble = FileTrouble(code, text, turn.wall_ms)
            self._began_ms = turn.now_ms
            self._holder_at = turn.now_ms + LOCK_NOTICE_MS
            first_at = self._holder_at if code == LOCKED else turn.now_ms
            self._notice_at = max(first_at, self._notified_at.get(code, -FLAPPING_MS) + FLAPPING_MS)
        self._try_at = turn.now_ms + pause_ms
        self._notify(turn)

    def _notify(self, turn: Turn) -> None:
        """Report the trouble, unless it is too young or was reported a while ago."""
        assert self.trouble is not None
        if self.trouble.code == LOCKED and turn.now_ms >= self._holder_at:
            self._holder_at = turn.now_ms + HOLDER_MS
            self.trouble = replace(self.trouble, text=self._locked_text(self._host.lock_holder()))
        if turn.now_ms < self._notice_at:
            return
        self._notice_at = turn.now_ms + NOTICE_MS
        self._notified_at[self.trouble.code] = turn.now_ms
        self._notified = True
        seconds = (turn.now_ms - self._began_ms) // 1000
        text = f"{self.trouble.text} (for {seconds:,} s)" if seconds else self.trouble.text
        detail = {"since_ms": self.trouble.since_ms}
        match self.trouble.code:  # with literals, which `mycomesh explain` is tested to know
            case "database.locked":
                turn.notify("database.locked", text, detail, "warning")
            case "disk.low":
                turn.notify("disk.low", text, detail, "warning")
            case _:
                turn.notify("database.refused", text, detail, "warning")

    def _open(self, turn: Turn) -> None:
        if self._notified:
            seconds = (turn.now_ms - self._began_ms) // 1000
            text = f"{self._store.path}: takes in rows of other nodes again, after {seconds:,} s"
            turn.notify("database.writable", text, {"seconds": seconds})
        self.trouble, self._try_at, self._notified = None, None, False

    def _locked_text(self, holder: str) -> str:
        return (
            f"{self._store.path}: {holder or 'another program'} has it locked; writes of this node and of others wait until"
            " that transaction ends"
        )

    def _low_text(self, free: int) -> str:
        return (
            f"{self._store.path}: the disk is full except for {free / 1e6:,.1f} MB, less than the floor of"
            f" {self._host.free_bytes_min / 1e6:,.1f} MB; rows of other nodes wait until there is room"
        )
