"""`mycomesh bridge test`: tries an outside system step by step, and says what is wrong and what to do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.tools.bridges.scheme import Finding, LinkError, Options, SchemeError
from mycomesh.tools.bridges.schemes import scheme_named
from mycomesh.tools.bridges.settings import load

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.bridges.scheme import Scheme

__all__ = ["probe"]

TEST_S = 60


def probe(home: Home, target: str) -> list[Finding]:
    """Try a URL, or the section of that name with its credentials and its topics.

    Raises:
        ConfigError: there is no such section or scheme.
    """
    if "://" in target:
        try:
            parts = urlsplit(target)
            kind = scheme_named(parts.scheme)
            _ = kind.own_address or parts.port
        except (SchemeError, ValueError) as error:
            raise ConfigError(f"{target!r}: {error}") from error
        if parts.password is not None:
            raise ConfigError(
                "the URL has a password; write a section with credentials = FILE, and test that by its name"
            )
        options = Options(target, "test", more=dict(kind.settings))
        try:
            kind.check(options)
        except SchemeError as error:
            raise ConfigError(str(error)) from error
        scheme = kind(options)
    else:
        settings = load(home, target)
        scheme = settings.scheme(settings.options("test", settings.secrets()))
    return asyncio.run(_probe(scheme))


async def _probe(scheme: Scheme) -> list[Finding]:
    try:
        async with asyncio.timeout(TEST_S):
            await scheme.connect()
            return await scheme.probe() or [Finding("connect", True, "this scheme has nothing else to test")]
    except (SchemeError, LinkError) as error:
        return [Finding("connect", False, str(error))]
    except TimeoutError:
        return [Finding("connect", False, f"no result within {TEST_S} s")]
    finally:
        await scheme.close()
