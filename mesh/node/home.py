"""A node's home: its directories, private files, and the locks that keep two nodes apart.

Directories have mode 0700 and files 0600. Every write is atomic: temporary file, fsync, rename, fsync of the directory. The
module never opens a database file, because closing any descriptor of it would drop the POSIX locks that SQLite holds in this
process (https://sqlite.org/howtocorrupt.html, section 2.2).

Invariant: the node never uses a key that other users can read, nor a directory or a setting that they can change.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import AlreadyServedError, HomeError, KeystoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["FileLock", "Home", "HomeLock", "read_private", "tampering", "write_private"]

PRIVATE_BYTES_MAX = 8 << 20  # more than a node writes: the largest file has a thousand certificates and revocations
DIR_MODE = 0o700
FILE_MODE = 0o600
NAME = "mycomesh"
LOCK_TRIES = 100  # each lost try means that another node ended, and removed the lock file, at that very moment


@dataclass(frozen=True, slots=True)
class Home:
    """The three directories of one node."""

    config: Path
    state: Path
    runtime: Path

    @classmethod
    def locate(cls, explicit: Path | None, environ: Mapping[str, str]) -> Home:
        """Return the home: `--home` first, then MYCOMESH_HOME, then the XDG directories (basedir spec 0.8)."""
        chosen = explicit if explicit is not None else _absolute(environ.get("MYCOMESH_HOME"))
        if chosen is not None:
            root = Path(os.path.abspath(chosen))  # noqa: PTH100  (resolve() would follow links; keep the user's name)
            return cls(root, root / "state", root / "run")
        user = _absolute(environ.get("HOME")) or Path("~").expanduser()
        config = (_absolute(environ.get("XDG_CONFIG_HOME")) or user / ".config") / NAME
        state = (_absolute(environ.get("XDG_STATE_HOME")) or user / ".local" / "state") / NAME
        runtime_base = _absolute(environ.get("XDG_RUNTIME_DIR"))
        runtime = runtime_base / NAME if runtime_base is not None and runtime_base.is_dir() else state / "run"
        return cls(config, state, runtime)

    @property
    def config_file(self) -> Path:
        """The optional configuration file, in TOML."""
        return self.config / "config.toml"

    @property
    def sockets(self) -> tuple[Path, ...]:
        """Paths where the control socket may be, since a service and a login shell differ in XDG_RUNTIME_DIR.

        A node listens on the first.
        """
        own = self.runtime / "control.sock"
        fallback = self.state / "run" / "control.sock"
        return (own,) if own == fallback else (own, fallback)

    def prepare(self) -> None:
        """Create the directories for keys and for the socket, private to this user.

        Raises:
            HomeError: a directory cannot be created, or another user can change it.
        """
        if self.state.parent == self.config:
            _private_dir(self.config)  # first: `mkdir` would create a parent with the mode that the umask leaves
        for directory in (self.state, self.runtime):
            _private_dir(directory)
        if self.config.exists():
            _refuse_tampering(self.config)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the home for one command that changes it; raise `AlreadyServedError` if a node has locked it."""
        lock = HomeLock.acquire(self)
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True, slots=True)
class HomeLock:
    """The lock on a home: one process at a time may change it. The kernel releases it however the process ends."""

    descriptor: int

    @classmethod
    def acquire(cls, home: Home) -> HomeLock:
        """Take the lock, or raise `AlreadyServedError` after 0.6 s."""
        home.prepare()
        path = home.state / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        except OSError as error:
            raise HomeError(f"cannot open {path}: {error.strerror}; check its owner and permissions") from error
        try:
            _lock(descriptor)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise AlreadyServedError(
                f"a node already runs for this home (process {holder}, {home.state}); "
                "stop it with 'mycomesh down', or give this node its own --home"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Release the lock."""
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class FileLock:
    """The lock on a database file: one node may serve it, whatever path, home or container it uses.

    The lock is on a file in the database's directory, because containers that share a volume share nothing else. It is named
    by the database's inode, since links and renames give one file several names. (Hard links in two directories are not told
    apart; SQLite does not support them either.) The lock file has mode 0600: flock(2) needs no more than read access, so other
    users must not be able to open it. The kernel releases the lock with the process; a node that ends in order removes the
    file too.
    """

    descriptor: int
    path: Path

    @classmethod
    def acquire(cls, path: Path) -> FileLock:
        """Take the lock of an existing database, or raise `AlreadyServedError` after 0.6 s."""
        try:
            real = path.resolve(strict=True)
            lock = real.with_name(f".{NAME}-{real.stat().st_ino:x}.lock")
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "it is a loop of links"
            raise HomeError(f"cannot reach {path}: {reason}; check the path and its permissions") from error
        for _ in range(LOCK_TRIES):
            descriptor = _open_lock(lock)
            try:
                _lock(descriptor)
            except BlockingIOError as error:
                os.close(descriptor)
                raise AlreadyServedError(
                    f"{path} is already served by another node, and one file has one node; stop that node with 'mycomesh down'"
                ) from error
            except OSError as error:
                os.close(descriptor)
                raise HomeError(f"cannot lock {lock}: {error.strerror}; use a file system with file locks") from error
            if _is_file_at(lock, descriptor):
                return cls(descriptor, lock)
            os.close(descriptor)  # its holder has removed it since: another node would lock the next one
        raise HomeError(f"{lock} is removed again and again; check what removes it")

    def release(self) -> None:
        """Release the lock and remove its file, unless another file has that name by now."""
        if _is_file_at(self.path, self.descriptor):
            with contextlib.suppress(OSError):  # a directory that became read-only keeps an empty file
                self.path.unlink()
        os.close(self.descriptor)


def _open_lock(lock: Path) -> int:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, FILE_MODE)
    except OSError as error:
        if os.path.lexists(lock):
            text = f"cannot open {lock} ({error.strerror}): the lock of another user's node; stop it, or remove what it left"
        else:
            text = f"cannot write in {lock.parent} ({error.strerror}); make the file and its directory writable"
        raise HomeError(text) from error


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False


def tampering(info: os.stat_result, mode: int = 0o022) -> str:
    """Return who else can change a file or directory, as a person reads it; empty if nobody can.

    It must belong to this user or to root, and grant nothing of `mode` to others.
    """
    if info.st_uid not in (os.geteuid(), 0):
        return f"belongs to {_user_name(info.st_uid)}, not to {_user_name(os.geteuid())}"
    if info.st_mode & mode:
        return f"can be changed by other users (mode {stat.S_IMODE(info.st_mode):04o})"
    return ""


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may have no name for it
        return f"user {uid}"


def read_private(path: Path) -> bytes | None:
    """Return a private file's bytes, None if it is absent.

    Raises:
        KeystoreError: the file cannot be read, is not a plain file, or other users may read or write it.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO at this path must not block the node
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeystoreError(f"cannot read {path}: {error.strerror}; check its owner and permissions") from error
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise KeystoreError(f"{path} is not a plain file; restore it from a backup or move it away")
        if info.st_uid not in (os.geteuid(), 0):
            raise KeystoreError(f"{path} {tampering(info)}; run the node as its owner, or: chown {os.geteuid()} {path}")
        if info.st_mode & 0o077:
            mode = stat.S_IMODE(info.st_mode)
            raise KeystoreError(f"{path} is open to other users (mode {mode:04o}); run: chmod 600 {path}")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(PRIVATE_BYTES_MAX + 1)
    except OSError as error:
        raise KeystoreError(f"cannot read {path}: {error.strerror}; restore it from a backup") from error
    finally:
        os.close(descriptor)
    if len(data) > PRIVATE_BYTES_MAX:
        raise KeystoreError(
            f"{path} is larger than any file that a node writes; restore it from a backup or move it away"
        )
    return data


def write_private(path: Path, data: bytes, *, exclusive: bool = False) -> None:
    """Write a private file atomically; with `exclusive`, raise `KeystoreError` instead of replacing an existing file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_synced(temporary, data)
        try:
            if exclusive:
                os.link(temporary, path)  # unlike rename, link fails if the name exists
            else:
                os.rename(temporary, path)  # noqa: PTH104  (the pair link/rename reads as one decision)
        finally:
            if exclusive:
                temporary.unlink()
        _sync_dir(path.parent)
    except FileExistsError as error:
        raise KeystoreError(
            f"{path} exists and is never replaced; move it away first if you no longer need it"
        ) from error
    except OSError as error:
        raise HomeError(f"cannot write {path}: {error.strerror}; check free space and permissions") from error


def remove_private(path: Path) -> None:
    """Remove a private file if it exists."""
    try:
        path.unlink(missing_ok=True)
        _sync_dir(path.parent)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HomeError(f"cannot remove {path}: {error.strerror}; check its owner and permissions") from error


def _absolute(text: str | None) -> Path | None:
    """Return an absolute path from the environment; ignore a relative one, as the XDG specification requires."""
    if not text:
        return None
    path = Path(text)
    return path if path.is_absolute() else None


def _private_dir(directory: Path) -> None:
    try:
        directory.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeError(
            f"cannot create {directory}: {error.strerror}; check its owner, or choose another --home"
        ) from error
    _refuse_tampering(directory)


def _refuse_tampering(directory: Path) -> None:
    try:
        info = directory.stat()
    except OSError as error:
        raise HomeError(f"cannot read {directory}: {error.strerror}; check its owner and permissions") from error
    who = tampering(info)
    if who:
        remedy = "chmod 700" if info.st_uid in (os.geteuid(), 0) else f"chown -R {os.geteuid()}"
        raise HomeError(f"{directory} {who}; run: {remedy} {directory}")


def _write_synced(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # left by a killed process that had the same process id
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        path.unlink()  # an incomplete key, for example on a full disk
        raise


def _sync_dir(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock a file; raise `BlockingIOError` if another process has it locked for 0.6 s, and `OSError` if it cannot be locked.

    A node that is killed while it starts a command leaves a copy of itself, which has the lock until it becomes that command.
    """
    for pause_s in (0.01, 0.02, 0.04, 0.08, 0.16, 0.32):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(pause_s)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
