"""The settings of one bridge: a section [bridge.NAME] of config.toml and its credentials file, checked in one value.

Whatever is wrong is a `ConfigError` of one line that names the section and says what to do. The names of columns are checked
later, when the table exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mycomesh.mesh.node.config import sections_of
from mycomesh.mesh.node.credentials import read_secrets
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX
from mycomesh.tools.bridges.scheme import Options, SchemeError
from mycomesh.tools.bridges.schemes import scheme_named
from mycomesh.tools.bridges.template import Pattern, Template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.bridges.scheme import Scheme

__all__ = ["FORMATS", "BridgeSettings", "load", "names", "parse"]

KIND = "bridge"
FORMATS = ("row", "debezium", "cbor")
IN_FLIGHT_MAX = 10_000
ROUTES_MAX = 100  # tables of `out`, patterns of `in`
# Key of the section -> field; the others have the same name.
_FIELDS = {"from": "begin", "max_in_flight": "in_flight_max"}
OWN_TABLES = (INTERNAL_PREFIX, "sqlite_")
_SECRETS = ("user", "password", "token")


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """One bridge.

    url: of the outside system. A password in it is refused, since others may read config.toml.
    out: table -> topic template.
    incoming: pattern of topics -> table.
    format: of the bodies: `row` (a JSON object of the columns), `debezium` (its envelope), `cbor` (a map of the columns).
    where: an SQL condition over the row, which changes have to meet to go out; "" for all. Deletes always go out.
    on: names of the nodes that run the bridge; empty for every node whose config.toml has the section.
    in_flight_max: messages without an acknowledgement, 1..10,000.
    deletes: send a message without a body for a deleted row.
    begin: `start` sends the rows that are there first, `now` the next change.
    create: create missing streams, queues, topics or directories.
    credentials: a private file with `user`, `password` or `token`, in TOML.
    ca: a file with the certificates to trust.
    extra: what becomes of a message with unknown keys: `refuse` makes it a dead letter, `ignore` drops those keys.
    time: the column with the time of a message: an older one does not overwrite a later one. "" for none.
    """

    name: str
    url: str
    out: Mapping[str, Template] = field(default_factory=dict)
    incoming: tuple[Pattern, ...] = ()
    format: str = "row"
    where: str = ""
    on: tuple[str, ...] = ()
    in_flight_max: int = 500
    deletes: bool = True
    begin: str = "start"
    create: bool = False
    credentials: str = ""
    ca: str = ""
    extra: str = "refuse"
    time: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)  # settings that this scheme alone has

    @property
    def scheme(self) -> type[Scheme]:
        """The class of the scheme; its library is installed, as `parse` has checked."""
        return scheme_named(urlsplit(self.url).scheme)

    def options(
        self,
        node: str,
        secrets: Mapping[str, str],
        count: Callable[[str, int], None] = lambda _name, _count: None,
        notify: Callable[[str, str], None] = lambda _event, _text: None,
    ) -> Options:
        """Return what the scheme needs to know."""
        return Options(
            url=self.url,
            bridge=self.name,
            node=node,
            ca=self.ca or None,
            create=self.create,
            from_now=self.begin == "now",
            outgoing=tuple(template.wildcards for template in self.out.values()),
            incoming=tuple(pattern.wildcards for pattern in self.incoming),
            in_flight_max=self.in_flight_max,
            more=self.more,
            count=count,
            notify=notify,
            **secrets,
        )

    def secrets(self) -> dict[str, str]:
        """Read the credentials file.

        Raises:
            ConfigError: it is missing, readable by others, or not such a file.
        """
        if not self.credentials:
            return {}
        try:
            return read_secrets(Path(self.credentials), _SECRETS)
        except ConfigError as error:
            raise _wrong(self.name, str(error)) from error


def names(home: Home) -> list[str]:
    """Return the names of all bridges of a home."""
    return list(sections_of(home.config_file, KIND))


def load(home: Home, name: str) -> BridgeSettings:
    """Read the settings of one bridge from config.toml.

    Raises:
        ConfigError: there is no such section, or it is wrong.
    """
    sections = sections_of(home.config_file, KIND)
    if name not in sections:
        known = ", ".join(sections) or "none"
        raise ConfigError(f"{home.config_file} has no section [bridge.{name}]; its bridges are: {known}")
    return parse(name, sections[name], home.config)


def parse(name: str, section: Mapping[str, Any], directory: Path) -> BridgeSettings:
    """Check a section; relative paths in it begin at `directory`.

    Raises:
        ConfigError: a key is missing, unknown or of another type, or the URL or a topic cannot be used.
    """
    url = section.get("url")
    if not isinstance(url, str) or not url:
        raise _wrong(name, "needs 'url', such as url = \"nats://127.0.0.1:4222\"")
    try:
        parts = urlsplit(url)
        scheme, password = scheme_named(parts.scheme), parts.password
        _ = scheme.own_address or parts.port
    except (ValueError, SchemeError) as error:
        raise _wrong(name, f"url {url!r}: {error}") from error
    if password is not None:
        raise _wrong(name, 'url has a password; put it into a file and name that: credentials = "FILE"')
    values: dict[str, Any] = {"name": name, "url": url, "more": dict(scheme.settings)}
    known = {each.name for each in fields(BridgeSettings)} - {
        "name",
        "url",
        "out",
        "incoming",
        "begin",
        "in_flight_max",
        "more",
    }
    for key, value in section.items():
        if key in scheme.settings:
            if type(value) is not type(scheme.settings[key]):
                raise _wrong(name, f"{key} must be like {scheme.settings[key]!r}, not {value!r}")
            values["more"][key] = value
        elif key == "out":
            values["out"] = _out(name, value, scheme)
        elif key == "in":
            values["incoming"] = _in(name, value, scheme)
        elif key in known or key in _FIELDS:
            values[_FIELDS.get(key, key)] = _value(name, key, value, directory)
        elif key != "url":
            keys = ["url", "out", "in", *sorted(known), *_FIELDS, *scheme.settings]
            raise _wrong(name, f"unknown key {key!r}; known are {', '.join(keys)}")
    if not values.get("out") and not values.get("incoming"):
        raise _wrong(name, "needs 'out' (table = topic), 'in' (topic = table), or both")
    settings = BridgeSettings(**values)
    _check(settings, scheme)
    return settings


def _check(settings: BridgeSettings, scheme: type[Scheme]) -> None:
    try:
        scheme.check(settings.options("", {}))
    except SchemeError as error:
        raise _wrong(settings.name, str(error)) from error
    if settings.ca and not Path(settings.ca).is_file():
        raise _wrong(settings.name, f"there is no file {settings.ca} for 'ca'")
    for table, template in settings.out.items():
        for pattern in settings.incoming:
            if pattern.table.casefold() == table.casefold() and pattern.matches(template.sample) is not None:
                raise _wrong(
                    settings.name,
                    f"what goes out of {table} to {template.text!r} would come in again by {pattern.text!r};"
                    " use other topics for one direction",
                )


def _out(name: str, value: Any, scheme: type[Scheme]) -> dict[str, Template]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise _wrong(name, 'out must be a table of table = topic, such as { drones = "fleet.{drone_id}" }')
    if len(value) > ROUTES_MAX:
        raise _wrong(name, f"out has {len(value)} tables, more than {ROUTES_MAX}; use several bridges")
    odd = next((table for table in value if not table.isprintable()), None)
    if odd is not None:  # the id of each change has it
        raise _wrong(name, f"out: the table {odd!r} has a line break or a control character in its name; rename it")
    try:
        return {table: Template.parse(text, scheme) for table, text in value.items()}
    except ValueError as error:
        raise _wrong(name, f"out: {error}") from error


def _in(name: str, value: Any, scheme: type[Scheme]) -> tuple[Pattern, ...]:
    if not isinstance(value, dict) or not all(isinstance(each, str) and each for each in value.values()):
        raise _wrong(name, 'in must be a table of topic = table, such as { "orders.>" = "orders" }')
    if len(value) > ROUTES_MAX:
        raise _wrong(name, f"in has {len(value)} topics, more than {ROUTES_MAX}; use several bridges")
    taken = next((table for table in value.values() if table.casefold().startswith(OWN_TABLES)), None)
    if taken is not None:
        raise _wrong(name, f"in: {taken!r} is not a table of yours; name one of those that your programs use")
    try:
        return tuple(Pattern.parse(text, table, scheme) for text, table in value.items())
    except ValueError as error:
        raise _wrong(name, f"in: {error}") from error


def _value(name: str, key: str, value: Any, directory: Path) -> Any:
    choices = {"format": FORMATS, "from": ("start", "now"), "extra": ("refuse", "ignore")}
    match key:
        case "deletes" | "create":
            if type(value) is not bool:
                raise _wrong(name, f"{key} must be true or false, not {value!r}")
        case "max_in_flight":
            if type(value) is not int or not 1 <= value <= IN_FLIGHT_MAX:
                raise _wrong(name, f"max_in_flight must be 1..{IN_FLIGHT_MAX:,}, not {value!r}")
        case "on":
            if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
                raise _wrong(name, f"on must be a list of names of nodes, not {value!r}")
            return tuple(value)
        case _ if key in choices:
            if value not in choices[key]:
                raise _wrong(name, f"{key} must be one of {', '.join(choices[key])}, not {value!r}")
        case "credentials" | "ca":
            if not isinstance(value, str) or not value:
                raise _wrong(name, f"{key} must be the path of a file, not {value!r}")
            return str(directory / Path(value).expanduser())
        case _:
            if not isinstance(value, str) or not value:
                raise _wrong(name, f"{key} must be text, not {value!r}")
    return value


def _wrong(name: str, text: str) -> ConfigError:
    return ConfigError(f"[bridge.{name}] {text}")
