"""The worker of `onnx:` flows: onnxruntime on one thread, with the model from an inherited file, and no way to open another.

A model is bytes of a peer. The format lets it name files whose content becomes a tensor, so the process gives up opening files
before it reads the model.
"""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["EXTRA", "load"]

EXTRA = "the extra 'onnx' is missing; install it: pip install 'mycomesh[onnx]'"
_PLAIN = (
    "float16",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
)  # as numpy names them too


def load(model: int) -> Callable[[dict[str, Any]], Any]:
    """Return the function that answers requests by the model that an open file holds."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        import numpy as np  # noqa: PLC0415 -- of the extra
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return _missing
    content = os.pread(model, os.fstat(model).st_size, 0)
    free = os.dup(model)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 -- the runtime raises its own kinds, which have no common base
        text = " ".join(str(error).split())[:300]
        return lambda _request: _raise(f"the runtime refuses the model: {text}")
    return _Model(session, np).answer


def _missing(_request: dict[str, Any]) -> Any:
    raise ValueError(EXTRA)


def _raise(text: str) -> Any:
    raise ValueError(text)


class _Model:
    """One session, and the types of its inputs."""

    def __init__(self, session: Any, np: Any) -> None:
        self._session = session
        self._np = np
        self._inputs = {each.name: each for each in session.get_inputs()}
        self._types = {name: getattr(np, name) for name in _PLAIN}
        self._types |= {"float": np.float32, "double": np.float64, "bool": np.bool_}

    def answer(self, request: dict[str, Any]) -> Any:
        """Return the outputs for the rows of a request, or the signature."""
        if "describe" in request:
            return {
                "inputs": [_stated(each) for each in self._session.get_inputs()],
                "outputs": [_stated(each) for each in self._session.get_outputs()],
                "metadata": self._session.get_modelmeta().custom_metadata_map,
            }
        rows, wanted = request["rows"], request["outputs"]
        if request["batch"]:
            made = self._run(request, rows, slice(None))
        else:
            each = [self._run(request, 1, slice(n, n + 1)) for n in range(rows)]
            made = [
                self._np.stack([self._np.asarray(part).reshape(-1) for part in parts])
                for parts in zip(*each, strict=True)
            ]
        return {
            name: self._packed(name, output, rows, count)
            for (name, count), output in zip(wanted.items(), made, strict=True)
        }

    def _run(self, request: dict[str, Any], rows: int, part: slice) -> list[Any]:
        feeds = {name: self._tensor(name, values, request["rows"], part) for name, values in request["inputs"].items()}
        for name, number in request["constants"].items():
            stated = self._inputs[name]
            shape = [each if isinstance(each, int) else rows for each in stated.shape]
            feeds[name] = self._np.full(shape, number, self._types[_kind(stated)])
        found: list[Any] = self._session.run(list(request["outputs"]), feeds)
        return found

    def _tensor(self, name: str, values: dict[str, Any], rows: int, part: slice) -> Any:
        np, stated = self._np, self._inputs[name]
        ((code, content),) = values.items()
        if code == "text":
            flat = np.array(content, dtype=object).reshape(rows, -1)[part]
        else:
            flat = self._elements(name, code, content, rows).reshape(rows, -1)[part]
        if not stated.shape:
            return flat.reshape(())
        inner = [each if isinstance(each, int) else -1 for each in stated.shape[1:]]
        if inner.count(-1) > 1:
            raise ValueError(f"the input {name!r} has more than one open dimension")
        first = stated.shape[0]
        shape = [first if isinstance(first, int) else len(flat), *inner]
        try:
            return flat.reshape(shape)
        except ValueError:
            raise ValueError(
                f"a row has {flat.shape[1]} numbers for the input {name!r}, whose shape is {stated.shape}"
            ) from None

    def _elements(self, name: str, code: str, content: bytes, rows: int) -> Any:
        np = self._np
        stated = self._inputs[name]
        dtype = np.dtype(self._types[_kind(stated)])
        if code == "bytes":
            count = 1
            for each in stated.shape[1:]:
                count *= each if isinstance(each, int) else 0
            if count and len(content) == count * rows:  # a byte for each element, as pixels are
                return np.frombuffer(content, np.uint8).astype(dtype)
            if len(content) % (dtype.itemsize * rows):
                raise ValueError(f"a blob of {len(content) // rows} bytes is no {stated.type} for the input {name!r}")
            return np.frombuffer(content, dtype.newbyteorder("<"))
        values = np.frombuffer(content, code)
        made = values.astype(dtype, copy=False)
        if dtype.kind in "iu" and not np.array_equal(made.astype(values.dtype), values):
            raise ValueError(f"a number does not fit {stated.type} of the input {name!r}")
        return made

    def _packed(self, name: str, output: Any, rows: int, count: int) -> dict[str, Any]:
        """Return an output as one array: `count` numbers of each row, or with 0 the bytes of its elements."""
        np = self._np
        output = np.asarray(output)
        if output.shape[:1] != (rows,) and output.size != rows * max(1, count):
            raise ValueError(f"the output {name!r} has the shape {list(output.shape)}, not one of {rows} rows")
        flat = output.reshape(rows, -1)
        if count and flat.shape[1] != count:
            raise ValueError(f"the output {name!r} has {flat.shape[1]} numbers of a row, and {count} columns")
        if output.dtype.kind in "OUS":
            return {"text": [[str(each) for each in row] for row in flat.tolist()]}
        if not count:
            return {"bytes": np.ascontiguousarray(flat).astype(flat.dtype.newbyteorder("<")).tobytes()}
        code = "q" if output.dtype.kind != "f" else "f" if output.dtype == np.float32 else "d"
        return {code: flat.astype(code, copy=False).tobytes()}


def _kind(stated: Any) -> str:
    text: str = stated.type
    return text.removeprefix("tensor(").removesuffix(")") if text.startswith("tensor(") else ""


def _stated(each: Any) -> list[Any]:
    return [each.name, _kind(each), [size if isinstance(size, int) else None for size in each.shape or ()]]
