"""The bundled model: built again it is the same file, and its figures on unseen sorties are those that its card states."""

from __future__ import annotations

from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
from mycomesh.tools.models import train_battery  # noqa: E402


def test_training_again_gives_the_same_bytes():
    assert train_battery.build(train_battery.read()) == train_battery.FILE.read_bytes()


def test_card_states_the_figures_beside_a_plain_threshold():
    compared = train_battery.compare(train_battery.read())
    card = Path(train_battery.FILE).with_suffix(".md").read_text().replace("\n", " ")
    model, threshold = ([f"{figures[name][0]:.2f}" for figures in compared.values()] for name in ("model", "threshold"))
    assert f"ROC curve of {model[0]}, {model[1]} and {model[2]}" in card
    assert f"has {threshold[0]}, {threshold[1]} and {threshold[2]}" in card
    assert sum(figures["model"][1] > figures["threshold"][1] + 0.005 for figures in compared.values()) == 0


def test_area_counts_ties_half():
    scores, faulty = np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True])
    assert train_battery.area(scores, faulty) == 3.5 / 4


def test_runtime_computes_what_the_training_does():
    onnxruntime = pytest.importorskip("onnxruntime")
    data = train_battery.read()
    session = onnxruntime.InferenceSession(train_battery.FILE.read_bytes(), providers=["CPUExecutionProvider"])
    columns = {name: data.inputs[:, n].astype(np.float32) for n, name in enumerate(train_battery.INPUTS)}
    expected, score = session.run(None, columns | {"battery_v": data.volts.astype(np.float32)})
    own = train_battery.features(data.inputs) @ train_battery.fit(data.inputs, data.volts)
    assert np.allclose(expected, own, atol=1e-4)
    assert np.allclose(score.std(), 1, atol=0.01)
