"""Writing small ONNX files: as much of the format (protocol buffers, IR 8, opset 13) as models of this repository and tests need.

The bytes depend on the arguments alone, so that a model which is built again can be compared with the one that is kept.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FLOAT", "INT64", "STRING", "Node", "Value", "constant", "file_of_path", "model", "node"]

FLOAT, UINT8, INT32, INT64, STRING = 1, 2, 6, 7, 8  # TensorProto.DataType
_IR, _OPSET = 8, 13


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output: its element type and its dimensions, a name for one that is open."""

    name: str
    kind: int
    shape: Sequence[int | str]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator with whole numbers as attributes."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, int] = field(default_factory=dict)


def node(operator: str, inputs: Sequence[str], output: str, **attributes: int) -> Node:
    """Return an operator with one output."""
    return Node(operator, inputs, (output,), attributes)


def model(
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Sequence[bytes] = (),
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return the bytes of a model; `constants` are made by `constant`."""
    graph = b"".join(
        (
            *(_message(1, _node(each)) for each in nodes),
            _text(2, "graph"),
            *(_message(5, each) for each in constants),
            *(_message(11, _value(each)) for each in inputs),
            *(_message(12, _value(each)) for each in outputs),
        )
    )
    properties = (_message(14, _text(1, key) + _text(2, text)) for key, text in (metadata or {}).items())
    opset = _message(8, _text(1, "") + _number(2, _OPSET))
    return _number(1, _IR) + _text(2, "mycomesh") + _message(7, graph) + opset + b"".join(properties)


def constant(name: str, shape: Sequence[int], numbers: Sequence[float], kind: int = FLOAT) -> bytes:
    """Return a constant tensor of floats or of whole numbers."""
    code = {FLOAT: "f", INT64: "q"}[kind]
    raw = struct.pack(f"<{len(numbers)}{code}", *numbers)
    return _dimensions(1, shape) + _number(2, kind) + _text(8, name) + _message(9, raw)


def file_of_path(name: str, shape: Sequence[int], path: str, kind: int = UINT8) -> bytes:
    """Return a constant tensor whose numbers are in another file, as large models have them."""
    place = _message(13, _text(1, "location") + _text(2, path))
    return _dimensions(1, shape) + _number(2, kind) + _text(8, name) + place + _number(14, 1)


def _node(each: Node) -> bytes:
    attributes = (
        _message(5, _text(1, name) + _number(3, number) + _number(20, 2)) for name, number in each.attributes.items()
    )
    inputs, outputs = (_text(1, name) for name in each.inputs), (_text(2, name) for name in each.outputs)
    return b"".join((*inputs, *outputs, _text(4, each.operator), *attributes))


def _value(each: Value) -> bytes:
    sizes = (_message(1, _text(2, size) if isinstance(size, str) else _number(1, size)) for size in each.shape)
    tensor = _number(1, each.kind) + _message(2, b"".join(sizes))
    return _text(1, each.name) + _message(2, _message(1, tensor))


def _dimensions(place: int, shape: Sequence[int]) -> bytes:
    return b"".join(_number(place, size) for size in shape)


def _number(place: int, number: int) -> bytes:
    return _varint(place << 3) + _varint(number)


def _text(place: int, text: str) -> bytes:
    return _message(place, text.encode())


def _message(place: int, content: bytes) -> bytes:
    return _varint(place << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    made = bytearray()
    number &= (1 << 64) - 1
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
