"""Lets dataclasses compile their methods at the first use, so that a process starts sooner and takes less memory.

`dataclasses.dataclass` compiles five or six functions for each class. A node loads some 300 such classes at its start and needs
36 of them by then: all together they were half of the time of its imports (ADR 99). The classes of mycomesh
get their `__init__`, `__repr__`, `__eq__` and `__hash__` from the standard library as before, when one of them is first called.

Invariant: a class behaves as the standard library would make it, but that one without a docstring has none; what this module
does not know is left to that whole (tests/tools/test_lazy_dataclasses.py). A program that embeds a node does not call this.
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
_METHODS = {*_COMPILED, "__setattr__", "__delattr__", "__getstate__", "__setstate__", "__slots__"}
_FROM_TWIN = (*_COMPILED, "__replace__", "__dataclass_fields__", "__dataclass_params__")

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
    """Return whether a class of this package has no base, no such method of its own and only fields that `__init__` takes."""
    body = vars(cls)
    kinds = body.get("__annotations__")
    if not cls.__module__.startswith(_PACKAGE) or cls.__bases__ != (object,) or not kinds or _METHODS & body.keys():
        return False
    if any(not isinstance(kind, str) or special in kind for kind in kinds.values() for special in _SPECIAL):
        return False
    given = (body.get(name) for name in kinds)
    return all(value.init and value.kw_only is not True for value in given if isinstance(value, dataclasses.Field))


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
        twin_body = given | {"__annotations__": kinds, "__module__": made.__module__, "__doc__": made.__doc__}
        if "__post_init__" in body:
            twin_body["__post_init__"] = body["__post_init__"]
        twin: type = _standard(frozen=frozen)(type(made.__name__, (), twin_body))
        for name in _FROM_TWIN:
            if name in vars(twin):
                setattr(made, name, vars(twin)[name])

    for name in _COMPILED:
        setattr(made, name, _at_first(name, made, complete))
    made.__dataclass_fields__ = _Fields(made, complete)
    if frozen:
        made.__setattr__, made.__delattr__ = _refuse_change, _refuse_delete
        made.__getstate__, made.__setstate__ = _state_of, _set_state
    else:
        made.__hash__ = None
    return made  # type: ignore[no-any-return]


def _at_first(name: str, made: type, complete: Callable[[], None]) -> Callable[..., Any]:
    """Return a method that completes its class and calls the compiled method in its place."""

    def method(self: object, *args: Any, **named: Any) -> Any:
        complete()
        return getattr(made, name)(self, *args, **named)

    method.__name__ = name
    return method


class _Fields:
    """Takes the place of `__dataclass_fields__` until somebody looks at it, as `replace`, `fields` and `asdict` do."""

    def __init__(self, made: type, complete: Callable[[], None]) -> None:
        self._made = made
        self._complete = complete

    def __get__(self, instance: object, owner: type) -> Any:
        self._complete()
        return self._made.__dataclass_fields__  # type: ignore[attr-defined]


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
    return [getattr(self, name) for name in self.__slots__]


def _set_state(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__slots__, state, strict=True):
        object.__setattr__(self, name, value)
