"""The function of a flow: the keys `run`, `timeout_s` and `memory_mib` of its section, and those of one kind alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.tools.bridges.scheme import SchemeError
from mycomesh.tools.bridges.schemes import scheme_named
from mycomesh.tools.models.tensors import TensorError, Tensors, declared

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MEMORY_MIB_MAX", "SQL_CHARS_MAX", "TIMEOUT_S_MAX", "Function", "function_of", "statement", "wrong"]

TIMEOUT_S_MAX = 3_600
MEMORY_MIB_MAX = 65_536
KINDS = ("sql", "python", "exec", "onnx", "http", "https")
SQL_CHARS_MAX = 100_000  # of `on` and `run`; a person writes them


@dataclass(frozen=True, slots=True)
class Function:
    """The function of one flow.

    kind: `sql`, `python`, `exec`, `onnx` or `http`.
    sql: one INSERT, or a SELECT whose rows go into the table of the results; "" for other kinds.
    call: MODULE:FUNCTION, a command for the shell, MODEL or MODEL@VERSION, or a URL; "" for SQL.
    directory: where Python modules are found and commands run.
    timeout_s: seconds that one call may take, 1..3,600.
    memory_mib: of the worker's address space, 64..65,536 MiB.
    tensors: how columns become the model's inputs, and its outputs columns.
    credentials, ca: paths of the webhook's files, "" for none.
    """

    kind: str
    sql: str
    call: str
    directory: str
    timeout_s: int = 30
    memory_mib: int = 512
    tensors: Tensors = field(default_factory=Tensors)
    credentials: str = ""
    ca: str = ""

    @property
    def text(self) -> str:
        """The key `run` of the section."""
        return f"{self.kind}: {self.sql or self.call}"


def function_of(name: str, section: Mapping[str, Any], directory: str) -> Function:
    """Check what a section runs; raises `ConfigError`. `run` is a text."""
    kind, sql, call = _parts(name, section["run"])
    timeout_s = section.get("timeout_s", 30)
    if type(timeout_s) is not int or not 1 <= timeout_s <= TIMEOUT_S_MAX:
        raise wrong(name, f"timeout_s must be 1..{TIMEOUT_S_MAX:,}, not {timeout_s!r}")
    memory_mib = section.get("memory_mib", 512)
    if type(memory_mib) is not int or not 64 <= memory_mib <= MEMORY_MIB_MAX:
        raise wrong(name, f"memory_mib must be 64..{MEMORY_MIB_MAX:,}, not {memory_mib!r}")
    try:
        tensors = declared(kind, section)
    except TensorError as error:
        raise wrong(name, str(error)) from error
    credentials, ca = _files(name, kind, section, directory)
    return Function(kind, sql, call, directory, timeout_s, memory_mib, tensors, credentials, ca)


def _parts(name: str, text: str) -> tuple[str, str, str]:
    """Return the kind of a function, its SQL and what is called, of which one is ""."""
    kind, colon, rest = text.partition(":")
    kind, rest = kind.strip(), rest.strip()
    if kind in ("http", "https"):
        return "http", "", _url(name, f"{kind}:{rest}" if rest.startswith("//") else rest)
    if not colon or kind not in KINDS or not rest:
        raise wrong(
            name,
            "run must begin with 'sql:', 'python:', 'exec:', 'onnx:' or 'https:', such as"
            ' run = "sql: INSERT INTO alerts SELECT id, at FROM new"',
        )
    if kind == "sql":
        return kind, statement(name, "run", rest), ""
    if kind == "python" and not re.fullmatch(r"\w+(\.\w+)*:\w+", rest):
        raise wrong(
            name, f'run = "python: MODULE:FUNCTION" names a function of a module in this directory, not {rest!r}'
        )
    if kind == "onnx" and not re.fullmatch(r"[^@\n]+(@[1-9][0-9]{0,8})?", rest):
        raise wrong(name, f'run = "onnx: MODEL" names a model, or a version of it as MODEL@3, not {rest!r}')
    return kind, "", rest


def _url(name: str, text: str) -> str:
    """Check the URL of a webhook."""
    try:
        scheme_named("http")
        parts = urlsplit(text)
        _ = parts.port
    except (SchemeError, ValueError) as error:
        raise wrong(name, f"run {text!r}: {error}") from error
    # The parser leaves out line breaks, so that one host would be checked and another asked.
    printable = text.isprintable() and " " not in text
    if not printable or parts.scheme not in ("http", "https") or not parts.hostname or parts.password is not None:
        raise wrong(
            name,
            f'run = "https://HOST/PATH" names a webhook, without a password (put it into a file: credentials), not {text!r}',
        )
    return text


def _files(name: str, kind: str, section: Mapping[str, Any], directory: str) -> list[str]:
    """Return the paths of `credentials` and `ca`, which only a webhook has."""
    found = []
    for key in ("credentials", "ca"):
        value = section.get(key, "")
        if not isinstance(value, str) or (value and kind != "http"):
            raise wrong(name, f"{key} must be the path of a file, for a webhook alone, not {value!r}")
        try:
            found.append(str(Path(directory) / Path(value).expanduser()) if value else "")
        except RuntimeError as error:  # "~" of a user that this machine lacks
            raise wrong(name, f"{key} {value!r}: {error}") from error
    return found


def statement(name: str, key: str, text: str) -> str:
    """Return one statement without the `;` behind it; raises `ConfigError` if there are more."""
    text = text.strip().removesuffix(";").rstrip()
    if ";" in text:
        raise wrong(name, f"{key} takes one statement, without ';': {text!r}")
    return text


def wrong(name: str, text: str) -> ConfigError:
    """Return the error of a flow's section."""
    return ConfigError(f"[flow.{name}] {text}")
