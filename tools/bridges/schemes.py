"""The schemes of bridges by the name in a URL; the module of a scheme is loaded in a bridge that uses it."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

from mycomesh.tools.bridges.scheme import SchemeError

if TYPE_CHECKING:
    from mycomesh.tools.bridges.scheme import Scheme

__all__ = ["SCHEMES", "scheme_named"]

# Scheme of the URL -> (MODULE:CLASS in this package, the extra of pip that brings its library, "" for none).
SCHEMES = {
    "amqp": ("amqp:AmqpScheme", "amqp"),
    "amqps": ("amqp:AmqpScheme", "amqp"),
    "ais": ("receivers:AisScheme", "ais"),
    "file": ("file:FileScheme", ""),
    "gpsd": ("receivers:GpsdScheme", ""),
    "mavlink": ("mavlink:MavlinkScheme", "mavlink"),
    "sbs": ("receivers:SbsScheme", ""),
    "http": ("http:HttpScheme", "http"),
    "https": ("http:HttpScheme", "http"),
    "kafka": ("kafka:KafkaScheme", "kafka"),
    "mqtt": ("mqtt:MqttScheme", "mqtt"),
    "mqtts": ("mqtt:MqttScheme", "mqtt"),
    "nats": ("nats:NatsScheme", "nats"),
    "tak": ("tak:TakScheme", "tak"),
}


# Libraries that a scheme loads when it connects: pyais, since other schemes of its module do without, and a slow dialect.
LATE = {"ais": "pyais", "mavlink": "pymavlink"}


def scheme_named(name: str) -> type[Scheme]:
    """Return the class of a scheme; this imports its module and its client library.

    Raises:
        SchemeError: no scheme has this name, or its library is not installed.
    """
    if name not in SCHEMES:
        raise SchemeError(f"no scheme {name!r}; known are {', '.join(f'{each}://' for each in SCHEMES)}")
    place, extra = SCHEMES[name]
    module, _, kind = place.partition(":")
    late = LATE.get(name, "")
    if late and find_spec(late) is None:
        raise _missing(name, late, extra)
    try:
        found: type[Scheme] = getattr(importlib.import_module(f"mycomesh.tools.bridges.{module}"), kind)
    except ImportError as error:
        if not extra:
            raise
        raise _missing(name, error.name or "a library", extra) from error
    return found


def _missing(name: str, library: str, extra: str) -> SchemeError:
    return SchemeError(f"{name}:// needs {library}, which is not installed; run: pip install 'mycomesh[{extra}]'")
