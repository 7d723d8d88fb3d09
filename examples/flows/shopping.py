"""Functions of the flows of voice.py: sound to text, and text to what goes into the basket."""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path
from typing import Any

FRAME_BYTES = 320  # 10 ms of 16,000 samples a second of 16 bits
RATE = 16_000
NUMBERS = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
UNITS = ("carton", "bottle", "bag")
ITEMS = ("milk", "water", "bread", "eggs", "apples", "coffee")
ORDER = re.compile(
    rf"add ({'|'.join(NUMBERS)}) (?:(?:{'|'.join(UNITS)})s? of )?({'|'.join(ITEMS)}) to my basket", re.IGNORECASE
)
JSGF = f"""#JSGF V1.0;
grammar basket;
public <order> = add <number> [<unit> of] <item> to my basket;
<number> = {" | ".join(NUMBERS)};
<unit> = {" | ".join(f"{unit} | {unit}s" for unit in UNITS)};
<item> = {" | ".join(ITEMS)};
"""


def order(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a text puts into the basket: a grammar, never dictation."""
    found = ORDER.findall(row["text"] or "")
    return [{"item": item.lower(), "quantity": NUMBERS[number.lower()], "said": row["text"]} for number, item in found]


def heard(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the text behind the wake word "okay nabu" in a recording, None if nobody says it."""
    from pymicro_wakeword import MicroWakeWordFeatures

    wake, features = wake_word(), MicroWakeWordFeatures()
    wake.reset()
    for frame, feature in enumerate(features.process_streaming(row["pcm"])):
        if wake.process_streaming(feature):
            return {"text": recognised(row["pcm"][frame * FRAME_BYTES :])}
    return None


@functools.cache
def wake_word() -> Any:
    from pymicro_wakeword import MicroWakeWord, Model

    return MicroWakeWord.from_builtin(Model.OKAY_NABU)


@functools.cache
def decoder() -> Any:
    from pocketsphinx import Decoder

    with tempfile.TemporaryDirectory() as folder:
        grammar = Path(folder, "basket.gram")
        grammar.write_text(JSGF)
        return Decoder(jsgf=str(grammar), samprate=RATE, loglevel="FATAL")


def recognised(pcm: bytes) -> str:
    """Return the words of the grammar that are spoken."""
    listening = decoder()
    listening.start_utt()
    listening.process_raw(pcm, full_utt=True)
    listening.end_utt()
    found = listening.hyp()
    return found.hypstr if found else ""
