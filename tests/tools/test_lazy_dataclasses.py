"""Classes whose methods are compiled at the first use behave as those that the standard library makes at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Modules with most of the classes of a node; `install` counts for what is imported after it.
MODULES = (
    "mycomesh.mesh.node.daemon",
    "mycomesh.mesh.node.serving",
    "mycomesh.sync.replica",
    "mycomesh.simulations.runner",
)
LISTING = """
import dataclasses, importlib, inspect, json, re, sys
if {lazy}:
    from mycomesh.tools import lazy_dataclasses
    lazy_dataclasses.install()
for module in {modules}:
    importlib.import_module(module)
found = {{}}
for name, module in sorted(sys.modules.items()):
    for cls in vars(module).values() if name.startswith("mycomesh.") else ():
        if isinstance(cls, type) and cls.__module__ == name and dataclasses.is_dataclass(cls):
            fields = [(each.name, each.init, each.repr, each.compare, each.kw_only) for each in dataclasses.fields(cls)]
            found[name + "." + cls.__qualname__] = [
                fields, re.sub(" at 0x[0-9a-f]+", "", str(inspect.signature(cls))), cls.__match_args__, bool(cls.__hash__),
                sorted(set(vars(cls)) - {{"__slots__", "__weakref__", "__dict__", "__setattr__", "__delattr__"}}),
            ]
print(json.dumps(found))
"""

# One class of each kind, as this package writes them, and two that derive from them.
SAMPLES = '''
from __future__ import annotations
import copy, dataclasses, pickle
from dataclasses import dataclass, field
from typing import ClassVar

@dataclass(frozen=True, slots=True)
class Point:
    """A place."""
    x: int
    y: int = 2
    seen: list[int] = field(default_factory=list, compare=False)

    def __post_init__(self):
        if self.x < 0:
            raise ValueError("x is below 0")

    def moved(self):
        return dataclasses.replace(self, x=self.x + 1)

@dataclass(slots=True)
class Tally:
    """A sum."""
    total: int = 0

@dataclass(frozen=True, slots=True)
class Own:
    """It prints itself."""
    x: int
    def __repr__(self):
        return "own"

@dataclass(slots=True)
class Inner:
    """It has fields that no caller gives."""
    kind: ClassVar[str] = "inner"
    x: int
    y: int = field(default=5, init=False)

@dataclass(frozen=True, slots=True, order=True)
class Ordered:
    """It has an order."""
    x: int

@dataclass(frozen=True, slots=True)
class Deeper(Point):
    """A place with a depth."""
    depth: int = 0

@dataclass(frozen=True)
class Open(Point):
    """A place with a dictionary."""
    depth: int = 0

class Bare(Point):
    """A plain class without a field of its own."""
    __slots__ = ()

@dataclass(frozen=True, slots=True)
class Selfish:
    """A field has the name of the object."""
    self: int

class Outer:
    """It has a class in it."""
    @dataclass(slots=True)
    class Nested:
        """It is called wrongly."""
        x: int

class Loud(Tally):
    """A plain class below a dataclass."""
    def __init__(self):
        super().__init__(7)

def outcome(work):
    try:
        return repr(work())
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def shared():
    @dataclass(slots=True)
    class Wrong:
        """Its default is shared."""
        x: list[int] = []
    return 1  # no object is made

def late():
    @dataclass(slots=True)
    class Late:
        """A field without a default comes last."""
        x: int = 1
        y: int
    return 1  # no object is made

def change(item):
    item.x = 4

def matched(item):
    match item:
        case Point(x, y):
            return x, y

def delete(item):
    del item.x

TRIALS = [
    lambda: Point(1),
    lambda: Point(),
    lambda: Point(1, z=2),
    lambda: Point(-1),
    lambda: Point(1) == Point(1, 2, [3]),
    lambda: Point(1) == 1,
    lambda: hash(Point(1)) == hash(Point(1)),
    lambda: len({Point(1), Point(1)}),
    lambda: change(Point(1)),
    lambda: delete(Point(1)),
    lambda: matched(Point(8)),
    lambda: Point(1).moved(),
    lambda: copy.copy(Point(1, 5)),
    lambda: copy.deepcopy(Point(1, 6, [2])),
    lambda: pickle.loads(pickle.dumps(Point(3, 4))),
    lambda: dataclasses.asdict(Point(1)),
    lambda: dataclasses.astuple(Point(1)),
    lambda: [each.name for each in dataclasses.fields(Point)],
    lambda: Point(1).seen is Point(1).seen,
    lambda: Tally(),
    lambda: hash(Tally()),
    lambda: Tally(1) == Tally(1),
    lambda: Tally(1) != Tally(2),
    lambda: setattr(Tally(), "other", 1),
    lambda: Own(1),
    lambda: Own(1) == Own(1),
    lambda: Inner(1),
    lambda: Inner(1, 2),
    lambda: Inner.kind,
    lambda: sorted([Ordered(2), Ordered(1)]),
    lambda: Deeper(1, depth=3),
    lambda: Deeper(1) == Deeper(1),
    lambda: Deeper(-1),
    lambda: copy.copy(Open(1, 2, [], 3)),
    lambda: copy.copy(Bare(4, 5)),
    lambda: Selfish(self=3),
    lambda: Outer.Nested(),
    lambda: shared(),
    lambda: late(),
    lambda: Tally.__dataclass_params__,
    lambda: change(Deeper(1)),
    lambda: Loud(),
    lambda: Loud() == Loud(),
    lambda: dataclasses.is_dataclass(Point),
    lambda: Point.__match_args__,
]
'''
RUN = """
import sys, types
if {lazy}:
    from mycomesh.tools import lazy_dataclasses
    lazy_dataclasses.install()
import dataclasses, json
order = {order}
module = types.ModuleType("mycomesh.samples")
sys.modules["mycomesh.samples"] = module
exec(compile(open({path!r}).read(), "samples", "exec"), vars(module))
said = [module.outcome(trial) for trial in module.TRIALS[::order]][::order]
print(json.dumps(said))
"""


def printed(program):
    return json.loads(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )


def test_every_class_is_as_the_standard_library_makes_it():
    lazy, standard = (printed(LISTING.format(lazy=lazy, modules=MODULES)) for lazy in (True, False))
    assert len(standard) > 250
    assert lazy == standard


@pytest.mark.parametrize("order", [1, -1])
def test_objects_behave_alike_whatever_comes_first(tmp_path, order):
    path = tmp_path / "samples.py"
    path.write_text(SAMPLES)
    lazy, standard = (printed(RUN.format(lazy=lazy, order=order, path=str(path))) for lazy in (True, False))
    assert lazy == standard


def test_methods_are_compiled_at_the_first_use_only(tmp_path):
    path = tmp_path / "samples.py"
    path.write_text(SAMPLES)
    program = RUN.format(lazy=True, order=1, path=str(path)).rsplit("said =", 1)[0]
    program += """
before = module.Tally.__init__.__qualname__
module.Point(1)
between = module.Tally.__init__.__qualname__
module.Tally()
after = module.Tally.__init__.__qualname__
print(json.dumps([before, between, after]))
"""
    before, between, after = printed(program)
    assert before == between != after
