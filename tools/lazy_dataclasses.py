"""Lets dataclasses compile their methods at the first use, so that a process starts sooner and takes less memory.

`dataclasses.dataclass` compiles up to six functions for each class. A node loads some 300 dataclasses, which took half of the
time of its imports, and has used 36 when it serves (ADR 99). Here a plain class of mycomesh gets stand-ins for `__init__`,
`__repr__`, `__eq__` and `__hash__`. The first call of one has the standard library compile all four in their place.

Invariant: objects behave as those of a class that the standard library makes at once (tests/tools/test_lazy_dataclasses.py), and
a class that is not plain, or not valid, is made by it. Until the first use, `inspect.signature` shows the stand-in, and a class
without a docstring never gets one. A program that embeds a node does not call this.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["install"]

_PACKAGE = "mycomesh."
_OPTIONS = {"frozen", "slots"}
_SPECIAL = ("ClassVar", "InitVar", "KW_ONLY")  # in an annotation: not a plain field
_COMPILED = ("__init__", "__repr__", "__eq__", "__hash__")
_DESCRIPTIONS = ("__dataclass_fields__", "__dataclass_params__")
_OWN = {*_COMPILED, "__setattr__", "__delattr__", "__getstate__", "__setstate__", "__slots__", "__match_args__"}
_FROM_TWIN = (*_COMPILED, *_DESCRIPTIONS, "__replace__")

_standard = dataclasses.dataclass


def install() -> None:
    """Replace `dataclasses.dataclass` for modules that are imported from now on; a second call does nothing."""
    dataclasses.dataclass = _dataclass


def _dataclass(cls: type | None = None, /, **options: Any) -> Any:
    def decorate(cls: type) -> type:
        if options.get("slots") and options.keys() <= _OPTIONS and _is_plain(cls):
            return _lazy(cls, frozen=options.get("frozen", False))
        return _standard(**options)(cls)

    return decorate if cls is None else decorate(cls)


def _is_plain(cls: type) -> bool:
    """Return whether a class of this package has no base, no name of `_OWN`, and only valid fields that `__init__` takes."""
    body = vars(cls)
    kinds = body.get("__annotations__")
    if not cls.__module__.startswith(_PACKAGE) or cls.__bases__ != (object,) or not kinds or _OWN & body.keys():
        return False
    if any(not isinstance(kind, str) or special in kind for kind in kinds.values() for special in _SPECIAL):
        return False
    optional = False
    for name in kinds:
        value = body.get(name, dataclasses.MISSING)
        given = value if isinstance(value, dataclasses.Field) else dataclasses.field(default=value)
        if not given.init or given.kw_only is True or given.default.__class__.__hash__ is None:
            return False
        has_default = given.default is not dataclasses.MISSING or given.default_factory is not dataclasses.MISSING
        if optional and not has_default:
            return False
        optional = has_default
    return True


def _lazy(cls: type, *, frozen: bool) -> type:
    """Return a class with slots whose compiled methods come with the first call of one."""
    body = dict(vars(cls))
    kinds: dict[str, str] = body["__annotations__"]
    given = {name: body.pop(name) for name in kinds if name in body}
    for name in ("__dict__", "__weakref__"):  # a class with slots has neither
        body.pop(name, None)
    made: Any = type(cls)(
        cls.__name__, cls.__bases__, body | {"__slots__": tuple(kinds), "__match_args__": tuple(kinds)}
    )
    made.__qualname__ = cls.__qualname__

    def complete() -> None:
        """Let the standard library make a class of the same fields, and take over what it compiled."""
        copied = ("__annotations__", "__module__", "__doc__", "__qualname__", "__post_init__")
        twin_body = given | {name: getattr(made, name) for name in copied if hasattr(made, name)}
        twin: type = _standard(frozen=frozen)(type(made.__name__, (), twin_body))
        for name in _FROM_TWIN:
            if name in vars(twin):
                setattr(made, name, vars(twin)[name])

    for name in _COMPILED:
        setattr(made, name, _at_first(name, made, complete))
    for name in _DESCRIPTIONS:
        setattr(made, name, _Description(name, made, complete))
    if frozen:
        made.__setattr__, made.__delattr__ = _refuse_change, _refuse_delete
        made.__getstate__, made.__setstate__ = _state_of, _set_state
    else:
        made.__hash__ = None
    return made  # type: ignore[no-any-return]


def _at_first(name: str, made: type, complete: Callable[[], None]) -> Callable[..., Any]:
    """Return a method that completes its class and calls the compiled method in its place."""

    def method(self: object, /, *args: Any, **named: Any) -> Any:
        complete()
        return getattr(made, name)(self, *args, **named)

    method.__name__ = name
    return method


class _Description:
    """Takes the place of what describes a dataclass until somebody looks at it, as `replace`, `fields` and `asdict` do."""

    def __init__(self, name: str, made: type, complete: Callable[[], None]) -> None:
        self._name = name
        self._made = made
        self._complete = complete

    def __get__(self, instance: object, owner: type) -> Any:
        self._complete()
        return getattr(self._made, self._name)


def _refuse_change(self: object, name: str, value: object) -> None:
    """Refuse to change a frozen object."""
    del self, value
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(self: object, name: str) -> None:
    """Refuse to take a field from a frozen object."""
    del self
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state_of(self: Any) -> list[Any]:
    """Return the values of a frozen object, for `copy` and `pickle`."""
    return [getattr(self, each.name) for each in dataclasses.fields(self)]


def _set_state(self: Any, state: list[Any]) -> None:
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)
