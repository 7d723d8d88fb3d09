"""Rows as tensors and back: which columns make which input of a model, which output makes which columns, and their bytes.

Without a declaration, an input or output takes the column of its name, or those that the model's own metadata names under
`columns.NAME`. Numbers travel as one array a tensor, so that a page of rows costs one message.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from mycomesh.sync.sqlite.identifiers import fold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "COLUMNS_MAX",
    "Plan",
    "Signature",
    "Tensor",
    "TensorError",
    "Tensors",
    "declared",
    "length_of",
    "plan",
    "request",
    "results",
]

COLUMNS_MAX = 1_000  # that make one tensor
_FLOATS = ("float", "double", "float16")
_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")


class TensorError(Exception):
    """A model and its flow do not fit; the text is one line."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """The mapping of one flow.

    inputs: name of an input -> a column, columns, or a number for each row.
    outputs: name of an output -> a column or columns.
    keep: columns of the row that go into the result as they are; None for those that the table of the results has too.
    """

    inputs: Mapping[str, str | tuple[str, ...] | float] = field(default_factory=dict)
    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output as the runtime states it.

    kind: type of an element, such as `float` or `int64`; "" for structures.
    shape: dimensions; None where the model takes any.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, and the columns that its metadata names for them."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    columns: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Signature:
        """Read what the worker says of a model."""
        inputs, outputs = (
            tuple(Tensor(name, kind, tuple(shape)) for name, kind, shape in described[side])
            for side in ("inputs", "outputs")
        )
        prefix = "columns."
        columns = {
            key.removeprefix(prefix): tuple(each.strip() for each in str(text).split(",")[:COLUMNS_MAX])
            for key, text in described["metadata"].items()
            if key.startswith(prefix)
        }
        return cls(inputs, outputs, columns)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rows of one flow become the tensors of one model.

    inputs: (tensor, names of its columns); constants are in `constants`.
    constants: (tensor, number).
    outputs: (name of the output, names of columns); one name and `raw` has the bytes of its elements as a blob.
    keep: columns of the row in the result.
    """

    inputs: tuple[tuple[Tensor, tuple[str, ...]], ...]
    constants: tuple[tuple[Tensor, float], ...]
    outputs: tuple[tuple[str, tuple[str, ...], bool], ...]
    keep: tuple[str, ...]

    @property
    def batches(self) -> bool:
        """Whether the model takes any number of rows at once."""
        return all(tensor.shape and tensor.shape[0] is None for tensor, _ in self.inputs)


def declared(kind: str, section: Mapping[str, Any]) -> Tensors:
    """Read `inputs`, `outputs` and `keep` of the section of a flow.

    Raises:
        TensorError: one has another form, or the flow is no model.
    """
    given = [key for key in ("inputs", "outputs", "keep") if key in section]
    if given and kind != "onnx":
        raise TensorError(f'{given[0]} is a key of flows with run = "onnx: MODEL"')
    inputs: dict[str, str | tuple[str, ...] | float] = {}
    for name, value in _table(section, "inputs").items():
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        inputs[name] = value if plain else _columns(f"inputs.{name}", value, " or a number")
    outputs = {name: _columns(f"outputs.{name}", value) for name, value in _table(section, "outputs").items()}
    keep = _columns("keep", section["keep"]) if section.get("keep") else () if "keep" in section else None
    return Tensors(inputs, outputs, keep)


def _table(section: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = section.get(key, {})
    if not isinstance(value, dict):
        raise TensorError(f'{key} names columns, such as {key} = {{ x = ["height", "battery"] }}, not {value!r}')
    return value


def _columns(key: str, value: Any, more: str = "") -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not 0 < len(names) <= COLUMNS_MAX or not all(isinstance(name, str) and name for name in names):
        raise TensorError(f"{key} is a column or a list of up to {COLUMNS_MAX:,}{more}, not {value!r}")
    return names


def plan(signature: Signature, tensors: Tensors, columns: Sequence[str], into: Sequence[str]) -> Plan:
    """Return the plan for rows with these columns and results with those of `into`.

    Raises:
        TensorError: an input has no column, an output none to go to, or a type is not supported.
    """
    known = {fold(each): each for each in columns}
    _check_names("inputs", signature.inputs, tuple(tensors.inputs))
    _check_names("outputs", signature.outputs, tuple(tensors.outputs))
    inputs: list[tuple[Tensor, tuple[str, ...]]] = []
    constants = []
    for tensor in signature.inputs:
        if tensor.kind not in (*_FLOATS, *_INTEGERS, "string"):
            raise TensorError(f"the input {tensor.name!r} is a {tensor.kind or 'structure'}, which no column can make")
        given = tensors.inputs.get(tensor.name, signature.columns.get(tensor.name, tensor.name))
        if isinstance(given, int | float):
            constants.append((tensor, given))
            continue
        names = (given,) if isinstance(given, str) else tuple(given)
        missing = next((name for name in names if fold(name) not in known), None)
        if missing is not None:
            raise TensorError(
                f"the model's input {tensor.name!r} needs a column {missing!r}, and there are {', '.join(columns)};"
                f' name others: inputs = {{ "{tensor.name}" = ["COLUMN", ...] }}'
            )
        _check_width(tensor, names)
        inputs.append((tensor, tuple(known[fold(name)] for name in names)))
    if not inputs:
        raise TensorError("no input of the model comes from a column")
    outputs = _outputs(signature, tensors, into)
    return Plan(tuple(inputs), tuple(constants), outputs, _keep(tensors, known, into, outputs))


def _check_names(side: str, tensors: tuple[Tensor, ...], declared_names: tuple[str, ...]) -> None:
    known = {each.name for each in tensors}
    strange = next((name for name in declared_names if name not in known), None)
    if strange is not None:
        raise TensorError(f"the model has no {strange!r} among its {side}: {_names(tensors)}")


def _check_width(tensor: Tensor, names: tuple[str, ...]) -> None:
    """Raise `TensorError` if columns of numbers cannot fill a tensor; one column may be a blob with all of it."""
    rest = tensor.shape[1:]
    width = 1
    for each in rest:
        width *= each or 1
    if len(names) > 1 and len(names) != width and None not in rest:
        raise TensorError(f"the input {tensor.name!r} takes {width} numbers of a row, and has {len(names)} columns")


def _outputs(
    signature: Signature, tensors: Tensors, into: Sequence[str]
) -> tuple[tuple[str, tuple[str, ...], bool], ...]:
    known = {fold(each) for each in into}
    found = []
    for tensor in signature.outputs:
        declared = tensors.outputs.get(tensor.name)
        names = declared or signature.columns.get(tensor.name, (tensor.name,))
        missing = [name for name in names if fold(name) not in known]
        if missing and not declared:
            continue
        if missing:
            raise TensorError(f"the table of the results has no column {missing[0]!r} for the output {tensor.name!r}")
        if tensor.kind not in (*_FLOATS, *_INTEGERS, "string"):
            raise TensorError(
                f"the output {tensor.name!r} is a {tensor.kind or 'structure'}; export the model with tensors (zipmap=False)"
            )
        width = 1
        for each in tensor.shape[1:]:
            width *= each or 0
        found.append((tensor.name, names, len(names) == 1 and width != 1 and tensor.kind != "string"))
    if not found:
        raise TensorError(
            f"the table of the results has no column for an output of the model: {_names(signature.outputs)};"
            ' name them: outputs = { "OUTPUT" = ["COLUMN", ...] }'
        )
    return tuple(found)


def _keep(
    tensors: Tensors,
    known: Mapping[str, str],
    into: Sequence[str],
    outputs: Sequence[tuple[str, tuple[str, ...], bool]],
) -> tuple[str, ...]:
    made = {fold(name) for _, names, _ in outputs for name in names}
    if tensors.keep is None:
        return tuple(known[fold(name)] for name in into if fold(name) in known and fold(name) not in made)
    target = {fold(each) for each in into}
    for name in tensors.keep:
        if fold(name) not in known or fold(name) not in target:
            raise TensorError(f"keep: {name!r} has to be a column of the row and of the table of the results")
    return tuple(known[fold(name)] for name in tensors.keep)


def request(made: Plan, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one call for rows, as plain values and bytes; blobs of one call have equal lengths.

    Raises:
        TensorError: a value of a row does not fit, where there is one row.
        TypeError, ValueError, OverflowError: a value of some row does not fit.
    """
    tensors: dict[str, dict[str, Any]] = {}
    for tensor, names in made.inputs:
        if tensor.kind == "string":
            tensors[tensor.name] = {"text": [[_text(row[name], name) for name in names] for row in rows]}
        elif len(names) == 1 and isinstance(rows[0][names[0]], bytes):
            content = b"".join(_blob(row[names[0]], names[0]) for row in rows)
            tensors[tensor.name] = {"bytes": content}
        else:
            tensors[tensor.name] = _numbers(tensor, names, rows)
    return {
        "rows": len(rows),
        "batch": made.batches,
        "inputs": tensors,
        "constants": {tensor.name: number for tensor, number in made.constants},
        "outputs": {name: 0 if raw else len(names) for name, names, raw in made.outputs},
    }


def length_of(made: Plan, row: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the lengths of the blobs of a row: rows of one call have the same."""
    return tuple(
        len(row[names[0]]) if len(names) == 1 and isinstance(row[names[0]], bytes) else -1 for _, names in made.inputs
    )


def _numbers(tensor: Tensor, names: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = map(itemgetter(*names), rows)
    values = list(found if len(names) == 1 else chain.from_iterable(found))
    code = "f" if tensor.kind == "float" else "d" if tensor.kind in _FLOATS else "q"
    try:
        return {code: array(code, values).tobytes()}
    except TypeError:
        if len(rows) == 1:
            for name in names:
                if isinstance(rows[0][name], bool) or not isinstance(rows[0][name], int | float):
                    raise TensorError(f"{name} is {_shown(rows[0][name])}, and the model takes numbers") from None
        if code != "q":
            raise
        return {"d": array("d", values).tobytes()}  # REAL columns hold whole numbers too; the worker looks


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TensorError(f"{name} is {_shown(value)}, and the model takes text")
    return value


def _blob(value: Any, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise TensorError(f"{name} is {_shown(value)}, and other rows have a blob")
    return value


def _shown(value: Any) -> str:
    return (
        "NULL" if value is None else f"a blob of {len(value)} bytes" if isinstance(value, bytes) else repr(value)[:60]
    )


def results(made: Plan, rows: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the result of each row from the answer of the worker."""
    names: list[str] = []
    columns: list[Sequence[Any]] = []
    for output, wanted, _ in made.outputs:
        (kind, content), *_ = answer[output].items()
        names += wanted
        if kind in "fdq":
            values = array(kind)
            values.frombytes(content)
            columns += [values[place :: len(wanted)].tolist() for place in range(len(wanted))]
        elif kind == "bytes":
            size = len(content) // len(rows)
            columns.append([content[size * n : size * (n + 1)] for n in range(len(rows))])
        else:
            columns += [[each[place] for each in content] for place in range(len(wanted))]
    for name in made.keep:
        names.append(name)
        columns.append([row[name] for row in rows])
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{each.name!r}" for each in tensors)
