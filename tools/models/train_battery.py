"""Training of the bundled model `battery`: which voltage a quadcopter should have at its charge, height and speed.

`python -m mycomesh.tools.models.train_battery` prints how it does on sorties that it has not seen, beside plain thresholds, and
writes battery.onnx. The data are 1,790 positions of 11 sorties (tools/data/NOTICE.md); it needs numpy.

The recording has no faults, so a weak cell is made: in each quarter of each sortie in turn, the voltage is lower than recorded.
Each sortie is judged by a model of the other ten. There are two figures: the area under the ROC curve, which is the chance that a
faulty row scores above a sound one, and the share of the faulty rows that are found with one false alarm in twenty sound rows.
The plain threshold does about as well: the load of the motors moves the voltage more than charge, height and speed tell.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mycomesh.tools.models.onnx_file import FLOAT, INT64, Value, constant, model, node

__all__ = ["Sorties", "area", "build", "compare", "main", "read"]

DATA = Path(__file__).parents[1] / "data" / "quadcopter-sorties.csv.gz"
FILE = Path(__file__).with_name("battery.onnx")
INPUTS = ("height_m", "speed_mps", "battery_pct")
SCALES = ((0.0, 10.0), (0.0, 5.0), (50.0, 50.0))  # (middle, width) of each input
HIDDEN = 24
RIDGE = 1.0
DIGITS = 4  # of a weight: libraries of linear algebra differ in the sixteenth
FAULTS_V = (0.3, 0.5, 0.8)
FALSE_ALARMS = 0.05
QUARTERS = 4

Array = Any  # numpy.ndarray of float64


@dataclass(frozen=True, slots=True)
class Sorties:
    """The rows of the recording: number of the sortie (n,), `INPUTS` (n, 3), volts (n,)."""

    number: Array
    inputs: Array
    volts: Array


def read() -> Sorties:
    """Read the recording."""
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = np.array([int(row["sortie"].rpartition("-")[2]) for row in rows])
    inputs = np.array([[float(row[name]) for name in INPUTS] for row in rows])
    return Sorties(numbers, inputs, np.array([float(row["battery_v"]) for row in rows]))


def hidden_weights() -> tuple[Array, Array]:
    """Return the weights (3, 24) and biases (24,) of the hidden layer: drawn, not trained (extreme learning machine)."""
    drawn = np.random.RandomState(1).normal(size=(len(INPUTS) + 1, HIDDEN)).round(DIGITS)  # its stream never changes
    return drawn[1:], drawn[0]


def features(inputs: Array) -> Array:
    """Return (n, 28): one, the scaled inputs and the hidden layer."""
    middle, width = np.array(SCALES).T
    scaled = (inputs - middle) / width
    weights, biases = hidden_weights()
    return np.concatenate([np.ones((len(scaled), 1)), scaled, np.tanh(scaled @ weights + biases)], axis=1)


def fit(inputs: Array, volts: Array) -> Array:
    """Return the 28 weights of the features, by ridge regression."""
    made = features(inputs)
    solved: Array = np.linalg.solve(made.T @ made + RIDGE * np.eye(made.shape[1]), made.T @ volts)
    return solved.round(DIGITS)


def area(scores: Array, faulty: Array) -> float:
    """Return the area under the ROC curve, ties counted half (Mann and Whitney)."""
    sound, bad = np.sort(scores[~faulty]), scores[faulty]
    below = np.searchsorted(sound, bad, "left") + np.searchsorted(sound, bad, "right")
    return float(below.sum() / 2 / len(sound) / len(bad))


def found(scores: Array, faulty: Array) -> float:
    """Return the share of the faulty rows above what `FALSE_ALARMS` of the sound rows reach."""
    return float((scores[faulty] > np.quantile(scores[~faulty], 1 - FALSE_ALARMS)).mean())


def compare(data: Sorties) -> dict[float, dict[str, tuple[float, float]]]:
    """Return for each fault in volts the area and the share found, of the model and of a threshold on the voltage."""
    expected = np.zeros(len(data.volts))
    numbers = sorted(set(data.number.tolist()))
    for number in numbers:
        own = data.number == number
        expected[own] = features(data.inputs[own]) @ fit(data.inputs[~own], data.volts[~own])
    compared = {}
    for drop in FAULTS_V:
        figures: dict[str, list[tuple[float, float]]] = {"model": [], "threshold": []}
        for quarter in range(QUARTERS):
            faulty = np.zeros(len(data.volts), bool)
            for number in numbers:
                places = np.flatnonzero(data.number == number)
                count = len(places) // QUARTERS
                faulty[places[quarter * count : (quarter + 1) * count]] = True
            volts = data.volts - drop * faulty
            for name, scores in (("model", expected - volts), ("threshold", -volts)):
                figures[name].append((area(scores, faulty), found(scores, faulty)))
        compared[drop] = {name: (_mean(each, 0), _mean(each, 1)) for name, each in figures.items()}
    return compared


def _mean(figures: list[tuple[float, float]], place: int) -> float:
    return float(np.mean([each[place] for each in figures]))


def build(data: Sorties) -> bytes:
    """Return the model of all sorties: inputs as columns of a row, outputs `expected_v` and `score`, in deviations."""
    weights = fit(data.inputs, data.volts)
    deviation = float(np.sqrt(np.mean((features(data.inputs) @ weights - data.volts) ** 2)).round(DIGITS))
    hidden, biases = hidden_weights()
    middle, width = np.array(SCALES).T
    nodes = [node("Unsqueeze", [name, "last"], f"{name}_1") for name in INPUTS]
    nodes += [
        node("Concat", [f"{name}_1" for name in INPUTS], "rows", axis=1),
        node("Sub", ["rows", "middle"], "centred"),
        node("Div", ["centred", "width"], "scaled"),
        node("MatMul", ["scaled", "hidden"], "drawn"),
        node("Add", ["drawn", "biases"], "shifted"),
        node("Tanh", ["shifted"], "bent"),
        node("Concat", ["scaled", "bent"], "features", axis=1),
        node("MatMul", ["features", "weights"], "summed"),
        node("Add", ["summed", "offset"], "expected_1"),
        node("Squeeze", ["expected_1", "last"], "expected_v"),
        node("Sub", ["expected_v", "battery_v"], "missing"),
        node("Div", ["missing", "deviation"], "score"),
    ]
    constants = [
        constant("last", [1], [1], INT64),
        constant("middle", [3], middle),
        constant("width", [3], width),
        constant("hidden", hidden.shape, hidden.ravel()),
        constant("biases", [HIDDEN], biases),
        constant("weights", [len(INPUTS) + HIDDEN, 1], weights[1:]),
        constant("offset", [1], weights[:1]),
        constant("deviation", [1], [deviation]),
    ]
    inputs = [Value(name, FLOAT, ["n"]) for name in (*INPUTS, "battery_v")]
    outputs = [Value(name, FLOAT, ["n"]) for name in ("expected_v", "score")]
    return model(nodes, inputs, outputs, constants)


def main() -> None:
    """Print the comparison and write the model."""
    data = read()
    print("fault    area: model  threshold    found: model  threshold   (each sortie by a model of the others)")
    for drop, figures in compare(data).items():
        (own_area, own_found), (area_by, found_by) = figures["model"], figures["threshold"]
        print(f"{drop} V          {own_area:.3f}      {area_by:.3f}           {own_found:.2f}       {found_by:.2f}")
    FILE.write_bytes(build(data))
    print(f"{FILE.name}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
