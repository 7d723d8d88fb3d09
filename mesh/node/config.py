"""The settings of one node, read from config.toml and the command line into one frozen value.

Nothing here touches the network: `MeshShell` resolves the names of static peers.

Invariant: every `NodeConfig` is valid, because construction checks each field.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mycomesh.mesh.address import is_loopback
from mycomesh.mesh.link_budget import Budget
from mycomesh.mesh.node.base import Base
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.home import tampering
from mycomesh.mesh.node.keep import Keep
from mycomesh.mesh.node.metered import parse_budget
from mycomesh.mesh.node.table_config import parse_tables
from mycomesh.mesh.versions import SUPPORTED, Versions
from mycomesh.sync.replication.table_settings import TableSetting
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.versions import Version, parse_version

__all__ = [
    "KEYS",
    "LOG_FORMATS",
    "PORT_DEFAULT",
    "Base",
    "Hook",
    "NodeConfig",
    "PeerName",
    "Section",
    "console_address",
    "load",
    "metrics_address",
    "sections_of",
]

PORT_DEFAULT = 7447  # TCP; any free port works, since mDNS announces it, but a firewall rule needs a fixed default
CONSOLE_PORT_DEFAULT = 7480
NATS_PORT_DEFAULT = 4222
METRICS_PORT_DEFAULT = 9464  # the usual port of exporters; peers use the node's own port
PEERS_MAX = 256  # static peers; a mesh spreads addresses itself, so a longer list is a mistake
HOOKS_MAX = 32  # each is a reader and a process
HOOK_TIMEOUT_S_MAX = 86_400
SECTIONS_MAX = 32  # each is a process
# Sections that a process of its own runs, as `mycomesh KIND run NAME` -> whether there are several, as [KIND.NAME]. The command
# checks what is in its section.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of a section or a hook
KINDS = {"bridge": True, "flow": True, "flows": False, "web": False}
EXTENSIONS_MAX = 16  # an application has one or two
TABLES_MAX = 1000  # names in --only, --except or --urgent; nobody writes more by hand
NAME_CHARS_MAX = 253  # the longest host name that DNS allows (RFC 1035)
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
FREE_MB_MAX = 1_000_000  # of the floor of free space; more than a terabyte is a mistake in the unit
# Limits on the record of conflicts: fewer than 100 would not outlast one split, and more than a million is a mistake. The
# last is for how long an idle reader holds deletes back.
CONFLICT_RANGES = {
    "conflicts_max": (100, 1_000_000),
    "conflicts_mb_max": (1, 10_000),
    "conflicts_days_max": (1, 36_500),
    "cursor_days": (1, 36_500),
}
_VERSION = 'a version of SQLite from "3.24" on, such as "3.40"'
CONFIG_BYTES_MAX = 1 << 20  # people write this file by hand; a larger one is something else
# config.toml key -> field; "except" is a Python keyword, so the field has another name
KEYS = {
    "port": "port",
    "peers": "peers",
    "peer_credentials": "peer_credentials",
    "only": "only",
    "except": "exclude",
    "urgent": "urgent",
    "loopback": "loopback",
    "multicast": "multicast",
    "log_level": "log_level",
    "log_format": "log_format",
    "metrics": "metrics",
    "protocol": "protocol",
    "free_mb_min": "free_mb_min",
    "conflicts_max": "conflicts_max",
    "conflicts_mb_max": "conflicts_mb_max",
    "conflicts_days_max": "conflicts_days_max",
    "cursor_days": "cursor_days",
    "sqlite_floor": "sqlite_floor",
    "extensions": "extensions",
    "link": "link",
    "table": "tables",
    "hook": "hooks",
    "base": "base",
    "keep": "keep",
    **dict.fromkeys(KINDS, "children"),
}


@dataclass(frozen=True, slots=True, order=True)
class PeerName:
    """A static peer as the user names it: host name or numeric address, and TCP port.

    nats: it is a NATS server, at which nodes meet that do not reach each other.
    """

    host: str
    port: int
    nats: bool = False

    @classmethod
    def peer(cls, text: str) -> PeerName:
        """Parse a static peer: `host:port`, or `nats://host:port`.

        Raises:
            ConfigError: the text has another form.
        """
        if not text.startswith("nats://"):
            return cls.parse(text)
        if "@" in text:
            raise ConfigError("a peer at nats:// has no login in its URL; write it into a file: peer_credentials")
        host = text.removeprefix("nats://").removesuffix("/")
        if "/" in host or "?" in host:
            raise ConfigError(f"peer {text!r} is not nats://host:port; write for example nats://hub.example.org:4222")
        return replace(cls.parse(host, "peer", NATS_PORT_DEFAULT), nats=True)

    @classmethod
    def parse(cls, text: str, what: str = "peer", port: int = PORT_DEFAULT, *, free: bool = False) -> PeerName:
        """Parse `host`, `host:port` or `[v6]:port`, with `port` as the default; with `free`, port 0 means any free one.

        Raises:
            ConfigError: the text has another form; the message calls it `what`.
        """
        bracketed = text.startswith("[")
        if bracketed:
            host, closing, rest = text[1:].partition("]")
            plain = bool(closing) and (rest == "" or rest.startswith(":"))
            port_text = rest[1:] if rest else str(port)
        elif text.count(":") > 1:  # a bare IPv6 address, which cannot have a port
            host, port_text, plain = text, str(port), True
        else:
            host, colon, port_text = text.partition(":")
            plain = True
            port_text = port_text if colon else str(port)
        if not plain or not host or len(host) > NAME_CHARS_MAX or not host.isprintable() or " " in host:
            raise ConfigError(f"{what} {text!r} is not host:port; write for example 192.168.1.7:{port}")
        if not port_text.isascii() or not port_text.isdigit() or not int(not free) <= int(port_text[:6]) <= 65535:
            raise ConfigError(f"{what} {text!r} has no port between 1 and 65535; write for example {host}:{port}")
        return cls(host, int(port_text))


@dataclass(frozen=True, slots=True)
class Hook:
    """A command that gets the changes of a table: the name of the hook, the table, and the command for `/bin/sh`.

    from_now: skip the rows that are there when the hook is new.
    timeout_s: a run that takes longer has failed, 1..86,400 seconds.
    """

    name: str
    on: str
    run: str
    from_now: bool = False
    timeout_s: int = 60

    @classmethod
    def parse(cls, name: str, value: Any) -> Hook:
        """Check one table of the file.

        Raises:
            ConfigError: a key is missing, unknown or of another type.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(f"hook {name!r}: a name has 1 to 64 letters, digits, '-' and '_'")
        if not isinstance(value, dict) or not {"on", "run"} <= value.keys() <= {"on", "run", "from", "timeout_s"}:
            raise ConfigError(
                f"hook {name!r} needs 'on' (a table) and 'run' (a command), and takes 'from' and 'timeout_s'"
            )
        on, run, begin, timeout_s = value["on"], value["run"], value.get("from", "start"), value.get("timeout_s", 60)
        if not isinstance(on, str) or not on or not isinstance(run, str) or not run.strip():
            raise ConfigError(f"hook {name!r}: 'on' must be the name of a table, and 'run' a command")
        if begin not in ("start", "now"):
            raise ConfigError(f'hook {name!r}: \'from\' must be "start" or "now", not {begin!r}')
        if type(timeout_s) is not int or not 1 <= timeout_s <= HOOK_TIMEOUT_S_MAX:
            raise ConfigError(f"hook {name!r}: 'timeout_s' must be 1..{HOOK_TIMEOUT_S_MAX:,}, not {timeout_s!r}")
        return cls(name, on, run, begin == "now", timeout_s)


@dataclass(frozen=True, slots=True)
class Section:
    """A section of config.toml that a child process runs: its kind, and its name, "" where there is one section only.

    words: what the command line adds to those of the child.
    """

    kind: str
    name: str
    words: tuple[str, ...] = ()

    @classmethod
    def parse(cls, kind: str, value: Any) -> tuple[Section, ...]:
        """Return the sections of one kind.

        Raises:
            ConfigError: the value is no table, or a name cannot be used.
        """
        if not KINDS[kind]:
            if not isinstance(value, dict):
                raise ConfigError(f"{kind!r} must be a table such as [{kind}], not {value!r}")
            return (cls(kind, ""),)
        if not isinstance(value, dict) or not all(isinstance(each, dict) for each in value.values()):
            raise ConfigError(f"{kind!r} must be tables such as [{kind}.NAME]")
        wrong = next((name for name in value if not NAME.fullmatch(name)), None)
        if wrong is not None:
            raise ConfigError(f"{kind} {wrong!r}: a name has 1 to 64 letters, digits, '-' and '_'")
        return tuple(cls(kind, name) for name in value)


def metrics_address(text: str) -> PeerName:
    """Parse the address at which metrics are served; raise `ConfigError` for anything else."""
    return PeerName.parse(text, "metrics", METRICS_PORT_DEFAULT)


def console_address(text: str) -> PeerName:
    """Parse the address at which the web console listens, port 0 for any free one; raise `ConfigError` for anything else."""
    return PeerName.parse(text, "console", CONSOLE_PORT_DEFAULT, free=True)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Every setting of a node. Construction checks the ranges and raises `ConfigError` for a wrong one.

    port: TCP port to listen on, 0..65535; 0 means any free port. None means 7447 if it is free (for firewall rules), else any,
        so that several nodes on one machine need no setting.
    peers: members to dial without discovery, where multicast is blocked, and NATS servers at which to meet others; at most 256.
    peer_credentials: path of a private file with `user`, `password`, `token` or `ca` for peers at NATS servers; "" for none.
    only: names of the tables to replicate; empty means all user tables.
    exclude: names of the tables not to replicate; disjoint from `only`.
    urgent: names of the tables whose rows are sent before all others, where a link is slower than the writes.
    loopback: find nodes on this machine only, over 127.0.0.1 and ::1; listen on and dial no other address (for demos and tests).
    multicast: announce and browse by mDNS; turn it off where only static peers are used.
    log_level: the least severe level shown in the foreground: debug, info, warning or error.
    log_format: text for people, or json for one object a line.
    protocol: the protocol versions that the node speaks; restrict the newest while a mesh is upgraded node by node.
    metrics: the address at which to serve Prometheus metrics over HTTP; None for no metrics. They name peers and tables to every
        client that can reach the address.
    free_mb_min: the floor of free space in MB, 0..1,000,000: with less on the disk of the database, the node takes in no rows of
        other nodes, so that the application can go on. None means 64 MB, or a twentieth of a small disk (`disk_space`).
    conflicts_max: records that `mycomesh_conflicts` keeps, 100..1,000,000.
    conflicts_mb_max: megabytes that it may take in the file, 1..10,000.
    conflicts_days_max: days that it keeps a record, 1..36,500.
    cursor_days: days after which a cursor of the change feed that has not moved keeps no deletes any more, 1..36,500.
    sqlite_floor: the oldest SQLite of the programs that open the files of this mesh; None to use what other nodes state, or 3.40.
    link: the budget of metered links; None for none.
    tables: budgets, order and floors of tables on this node, of which the first that matches counts.
    hooks: commands that get the changes of a table, at most 32 (`hooks.HookCommands`).
    children: the sections that child processes run, at most 32 (`children.Children`).
    keep: the areas of tables that this node keeps.
    base: the mailbox to which this node is a gateway (`gateway.gateway.Gateway`), None for no gateway.
    extensions: absolute paths of SQLite's loadable extensions, at most 16. The node loads them as the application does, so that
        it can run the triggers that keep an index of such a module (`extensions.checked_extensions`).
    """

    port: int | None = None
    peers: tuple[PeerName, ...] = ()
    peer_credentials: str = ""
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    urgent: tuple[str, ...] = ()
    loopback: bool = False
    multicast: bool = True
    log_level: str = "info"
    log_format: str = "text"
    metrics: PeerName | None = None
    protocol: Versions = SUPPORTED
    free_mb_min: int | None = None
    conflicts_max: int = 10_000
    conflicts_mb_max: int = 64
    conflicts_days_max: int = 365
    cursor_days: int = 30
    sqlite_floor: Version | None = None
    extensions: tuple[str, ...] = ()
    link: Budget | None = None
    tables: tuple[TableSetting, ...] = ()
    hooks: tuple[Hook, ...] = ()
    children: tuple[Section, ...] = ()
    base: Base | None = None
    keep: Keep = field(default_factory=Keep)

    @property
    def link_budget(self) -> Budget | None:
        """The budget of metered links; one without amounts where tables alone have some."""
        paced = any(each.bytes_s is not None or each.bytes_day is not None for each in self.tables)
        return replace(self.link or Budget(), tables=True) if paced else self.link

    def __post_init__(self) -> None:
        """Check every field."""
        if self.port is not None and not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is out of range; choose 1..65535, or 0 for a free one")
        _check_ranges(self)
        if len(self.peers) > PEERS_MAX:
            raise ConfigError(
                f"{len(self.peers)} static peers are more than {PEERS_MAX}; name a few, and they introduce the others"
            )
        away = next((peer.host for peer in self.peers if self.loopback and _is_elsewhere(peer.host)), None)
        if away is not None:
            raise ConfigError(
                f"peer {away} cannot be reached with 'loopback', which uses 127.0.0.1 and ::1 only; remove one of the two"
                " (multicast = false or --no-multicast keeps a node from announcing itself)"
            )
        for label, names in (("only", self.only), ("except", self.exclude), ("urgent", self.urgent)):
            if len(names) > TABLES_MAX or not all(names):
                raise ConfigError(f"'{label}' must be a list of 0..{TABLES_MAX} table names, none of them empty")
        for items, most, label, remedy in (
            (self.extensions, EXTENSIONS_MAX, "extensions", "name those that triggers need"),
            (self.hooks, HOOKS_MAX, "hooks", "let one command do several things"),
            (self.children, SECTIONS_MAX, "sections with processes", "join some of them"),
        ):
            if len(items) > most:
                raise ConfigError(f"{len(items)} {label} are more than {most}; {remedy}")
        both = sorted({fold(name) for name in self.only} & {fold(name) for name in self.exclude})
        if both:
            raise ConfigError(f"table {both[0]!r} is in both 'only' and 'except'; remove it from one")
        if self.protocol.oldest not in SUPPORTED or self.protocol.newest not in SUPPORTED:
            raise ConfigError(f"protocol {self.protocol} is not supported; this mycomesh speaks {SUPPORTED}")
        if self.log_level not in LOG_LEVELS:
            raise ConfigError(f"log_level {self.log_level!r} is unknown; choose one of {', '.join(LOG_LEVELS)}")
        if self.log_format not in LOG_FORMATS:
            raise ConfigError(f"log_format {self.log_format!r} is unknown; choose one of {', '.join(LOG_FORMATS)}")


def _check_ranges(config: NodeConfig) -> None:
    if config.free_mb_min is not None and not 0 <= config.free_mb_min <= FREE_MB_MAX:
        raise ConfigError(f"free_mb_min {config.free_mb_min} is out of range; choose 0..{FREE_MB_MAX:,} MB")
    for name, (least, most) in CONFLICT_RANGES.items():
        if not least <= getattr(config, name) <= most:
            raise ConfigError(f"{name} {getattr(config, name)} is out of range; choose {least:,}..{most:,}")


def _is_elsewhere(host: str) -> bool:
    """Return True for a numeric address that is no loopback address; what a name means is known later."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return not is_loopback(host)


def load(path: Path, **overrides: Any) -> NodeConfig:
    """Read config.toml, which may be absent, and apply the command line's `overrides`, where None means "not given"."""
    text = _text(path)
    settings = NodeConfig()
    for key, value in _table(path, text).items():
        try:
            field, found = _field(key), _value(key, value)
            if field == "children":  # several keys have one field
                found = (*settings.children, *found)
            settings = replace(settings, **{field: found})
        except ConfigError as error:
            raise ConfigError(f"{path}:{_line(text, key)}: {error}") from error
    console = overrides.pop("web", None)
    if console is not None:  # its address, beside what its section says
        others = tuple(each for each in settings.children if each.kind != "web")
        settings = replace(settings, children=(*others, Section("web", "", (console,))))
    mailbox = overrides.pop("mailbox", None)
    if mailbox is not None:  # its URL, beside what [base] says
        settings = replace(settings, base=replace(settings.base or Base(mailbox), mailbox=mailbox))
    kept = overrides.pop("keep", None)
    if kept is not None:
        settings = replace(settings, keep=settings.keep.with_words(kept))
    return replace(settings, **{name: value for name, value in overrides.items() if value is not None})


def sections_of(path: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Return the sections [KIND.NAME] of config.toml by name, as plain values; a single section [KIND] has the name "".

    Raises:
        ConfigError: the file cannot be used, or these are no sections.
    """
    found = _table(path, _text(path)).get(kind)
    if found is None:
        return {}
    named = {each.name for each in Section.parse(kind, found)}
    return {name: section for name, section in found.items() if name in named} if KINDS[kind] else {"": found}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            who = tampering(os.fstat(file.fileno()))
            data = file.read(CONFIG_BYTES_MAX + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check its owner and permissions") from error
    if who:  # its settings open ports, and name the addresses that the node dials
        raise ConfigError(f"{path} {who}; run: chown {os.geteuid()} {path} && chmod 644 {path}")
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path} is larger than 1 MiB, too large for a configuration file; check the path")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _table(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _field(key: str) -> str:
    if key not in KEYS:
        raise ConfigError(f"unknown key {key!r}; known keys are {', '.join(KEYS)}")
    return KEYS[key]


def _line(text: str, key: str) -> int:
    """Return the number of the line that begins the top-level key or table of this name."""
    name = re.escape(key)
    found = re.search(rf"""^[ \t]*\[*[ \t]*["']?{name}["']?[ \t]*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _value(key: str, value: Any) -> Any:
    match key:
        case "port" | "free_mb_min" | "conflicts_max" | "conflicts_mb_max" | "conflicts_days_max" | "cursor_days":
            if type(value) is int:
                return value
            wanted = "a whole number"
        case "loopback" | "multicast":
            if type(value) is bool:
                return value
            wanted = "true or false"
        case "log_level" | "log_format" | "metrics" | "sqlite_floor" | "peer_credentials":
            if type(value) is str:
                return _from_text(key, value)
            wanted = {"metrics": "a string such as 127.0.0.1:9464", "sqlite_floor": _VERSION}.get(key, "a string")
        case "protocol":
            if isinstance(value, list) and len(value) == 2 and all(type(item) is int for item in value):
                return _versions(*value)
            wanted = f"a list of the oldest and the newest version, such as [{SUPPORTED.oldest}, {SUPPORTED.newest}]"
        case "base" | "link" | "keep" | "table":
            return {"base": Base.parse, "link": parse_budget, "keep": Keep.parse, "table": parse_tables}[key](value)
        case _ if key in ("hook", *KINDS):
            return _sections(key, value)
        case _:
            if isinstance(value, list) and all(type(item) is str for item in value):
                return tuple(PeerName.peer(item) for item in value) if key == "peers" else tuple(value)
            wanted = "a list of strings"
    raise ConfigError(f"{key!r} must be {wanted}, not {value!r}")


def _sections(key: str, value: Any) -> Any:
    if key != "hook":
        return Section.parse(key, value)
    if not isinstance(value, dict):
        raise ConfigError(f"{key!r} must be a table such as [hook.NAME], not {value!r}")
    return tuple(Hook.parse(name, each) for name, each in value.items())


def _from_text(key: str, text: str) -> Any:
    if key == "metrics":
        return metrics_address(text)
    if key != "sqlite_floor":
        return text
    version = parse_version(text)
    if version is None:
        raise ConfigError(f"{key!r} must be {_VERSION}, not {text!r}")
    return version


def _versions(oldest: int, newest: int) -> Versions:
    try:
        return Versions(oldest, newest)
    except ValueError:
        text = f"'protocol' [{oldest}, {newest}] is not a range; write the older version first (this mycomesh speaks {SUPPORTED})"
        raise ConfigError(text) from None
