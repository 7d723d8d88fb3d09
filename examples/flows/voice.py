"""Somebody speaks in the shop, and the basket is on every till, without the internet.

    pip install 'mycomesh[voice]'
    python examples/flows/voice.py

A recording (order.wav, made by espeak-ng) is a blob in a row. The first flow waits for the wake word and recognises the words
behind it with a grammar; its models come inside of the packages pymicro-wakeword and pocketsphinx. The second flow reads the
text and inserts into the basket. Without the two packages, the texts are typed instead of spoken.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import wave
from pathlib import Path

from nodes import Node, until

HERE = Path(__file__).parent
SPOKEN = all(map(importlib.util.find_spec, ("pymicro_wakeword", "pocketsphinx")))
CONFIG = """
[flow.listen]
on = "sounds"
run = "python: shopping:heard"
into = "texts"
memory_mib = 1024

[flow.order]
on = "texts"
run = "python: shopping:order"
into = "basket"
"""
SCHEMA = """
CREATE TABLE sounds(id INTEGER PRIMARY KEY, pcm BLOB);
CREATE TABLE texts(key TEXT PRIMARY KEY, text TEXT);
CREATE TABLE basket(key TEXT PRIMARY KEY, item TEXT, quantity INTEGER, said TEXT);
"""


def sound() -> tuple[bytes, bytes]:
    """Return the recording, and only its second half, which lacks the wake word."""
    with wave.open(str(HERE / "order.wav")) as file:
        pcm = file.readframes(file.getnframes())
    return pcm, pcm[len(pcm) // 2 & ~1 :]


def main(place: Path) -> None:
    shelf, till = Node(place, "shelf", CONFIG), Node(place, "till")
    shutil.copy(HERE / "shopping.py", shelf.home)
    try:
        shelf.run("init", "--node-name", "shelf")
        shelf.db.executescript(SCHEMA)
        shelf.up()
        till.join(shelf, shelf.port())
        till.up("--peer", f"127.0.0.1:{shelf.port()}")
        until(lambda: shelf.run("flow", "status").count(" running ") == 2, "both flows run")
        if SPOKEN:
            shelf.db.executemany("INSERT INTO sounds(pcm) VALUES(?)", [(pcm,) for pcm in sound()])
            print("shelf: two recordings, one with the wake word")
        else:
            print("pymicro-wakeword and pocketsphinx are not installed: the text is typed")
            shelf.db.execute("INSERT INTO texts VALUES('typed', 'add two cartons of milk to my basket')")
        shelf.db.execute("INSERT INTO texts VALUES('chat', 'I had two cartons of milk in my basket')")
        until(lambda: till.one("SELECT count(*) FROM basket"), "the till has the basket")
        for item, quantity, said in till.db.execute("SELECT item, quantity, said FROM basket ORDER BY key"):
            print(f"till:  basket has {quantity} {item} (said: {said!r})")
        key = shelf.one("SELECT key FROM basket")
        for line in shelf.run("why", "basket", str(key)).splitlines():
            if line.startswith("made by"):
                print(line.partition(": id=")[0].partition(", pcm=")[0])
    finally:
        for node in (shelf, till):
            node.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mycomesh-example-") as folder:
        main(Path(folder))
