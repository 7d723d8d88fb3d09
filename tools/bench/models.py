"""Benchmarks of models: a page of rows through the worker of an `onnx:` flow, beside the bare runtime on the same rows."""

from __future__ import annotations

import importlib.util
import random
import tempfile
import time
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import apsw

from mycomesh.tools.bench.figure import Figure, measured
from mycomesh.tools.bench.nodes import cpu_s
from mycomesh.tools.flows.onnx_function import ModelWorker
from mycomesh.tools.models import store
from mycomesh.tools.models.onnx_file import FLOAT, Value, constant, model, node
from mycomesh.tools.models.tensors import Tensors, plan

__all__ = ["models"]

ROWS = 1_024  # of a page, as flows take them
CALLS = 20  # of one measurement: CPU of a process is counted in hundredths of a second
PAGES = 8
WIDTH = 16  # columns of a row
HIDDEN = 512  # two layers of these: 280,000 multiplications a row, as a small classifier has


def models(quick: bool) -> dict[str, Figure]:
    """Return the ratios to the bare runtime: of a small network, and of the bundled model, whose work is next to nothing."""
    if importlib.util.find_spec("onnxruntime") is None:
        return {}
    pages = 1 if quick else PAGES
    columns = [f"c{number}" for number in range(WIDTH)]
    rng = random.Random(1)
    rows = [{name: rng.random() for name in columns} for _ in range(ROWS)]
    network, small = _ratio(_network(), {"x": tuple(columns)}, rows, pages), _bundled(rows, pages)
    return measured(
        model_batch_ratio=network[0],
        model_us_per_row=network[1],
        model_small_ratio=small[0],
        model_small_us_per_row=small[1],
    )


def _bundled(rows: list[dict[str, Any]], pages: int) -> tuple[float, float]:
    content = Path(store.__file__).with_name("battery.onnx").read_bytes()
    names = ("height_m", "speed_mps", "battery_pct", "battery_v")
    return _ratio(content, {name: (f"c{number}",) for number, name in enumerate(names)}, rows, pages)


def _ratio(content: bytes, inputs: dict[str, Any], rows: list[dict[str, Any]], pages: int) -> tuple[float, float]:
    """Return the CPU of pages over that of the bare runtime, measured in turn, and microseconds a row."""
    with tempfile.TemporaryDirectory(prefix="mycomesh-bench-") as folder:
        db = apsw.Connection(str(Path(folder) / "f.db"))
        db.execute("CREATE TABLE mycomesh_status(node)")
        store.add(db, "bench", content, card="", nodes="*", version=None)
        worker = ModelWorker(db, "bench", folder, 30, 512)
        try:
            worker.load()
            outputs = [each.name for each in worker.signature.outputs]
            made = plan(worker.signature, Tensors(inputs, {}, ()), list(rows[0]), outputs)
            bare = _bare(content, inputs, rows)
            assert set(worker.results(made, rows)[0]) == set(outputs)
            pairs = [(_cpu_s(lambda: worker.results(made, rows), worker.pid), _cpu_s(bare)) for _ in range(pages)]
        finally:
            worker.close()
            db.close()
    own, by_hand = sum(each for each, _ in pairs), sum(each for _, each in pairs)
    return own / by_hand, 1e6 * own / len(rows) / pages / CALLS


def _bare(content: bytes, inputs: dict[str, Any], rows: list[dict[str, Any]]) -> Callable[[], Any]:
    """Return a function that does by hand what a program would: rows to arrays, the runtime on one thread, and back to rows."""
    import numpy as np  # noqa: PLC0415 -- of the extra
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]

    def run() -> list[dict[str, Any]]:
        feeds = {}
        for name, columns in inputs.items():
            get = itemgetter(*columns)
            feeds[name] = np.array([get(row) for row in rows], np.float32)
        made = [each.reshape(len(rows)).tolist() for each in session.run(None, feeds)]
        return [dict(zip(names, values, strict=True)) for values in zip(*made, strict=True)]

    return run


def _cpu_s(function: Callable[[], Any], worker: int = 0) -> float:
    """Return the CPU of some calls, of this process and of a worker."""
    began = time.process_time() + (cpu_s(worker) if worker else 0)
    for _ in range(CALLS):
        function()
    return time.process_time() + (cpu_s(worker) if worker else 0) - began


def _network() -> bytes:
    """Return a network of two hidden layers with drawn weights."""
    rng = random.Random(2)

    def drawn(name: str, rows: int, columns: int) -> bytes:
        return constant(name, [rows, columns], [rng.gauss(0, 0.1) for _ in range(rows * columns)])

    nodes = [
        node("MatMul", ["x", "a"], "x_a"),
        node("Tanh", ["x_a"], "one"),
        node("MatMul", ["one", "b"], "one_b"),
        node("Tanh", ["one_b"], "two"),
        node("MatMul", ["two", "c"], "y"),
    ]
    weights = [drawn("a", WIDTH, HIDDEN), drawn("b", HIDDEN, HIDDEN), drawn("c", HIDDEN, 1)]
    return model(nodes, [Value("x", FLOAT, ["n", WIDTH])], [Value("y", FLOAT, ["n", 1])], weights)
