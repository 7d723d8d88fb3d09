"""A scheme whose client library is missing is refused in one line, before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys

from mycomesh.tools.bridges.schemes import SCHEMES

LIBRARIES = ("aio_pika", "confluent_kafka", "defusedxml", "h11", "nats", "paho", "pyais", "pymavlink")
PROGRAM = f"""
import json, sys
for name in {LIBRARIES!r}:
    sys.modules[name] = None
from mycomesh.tools.bridges.scheme import SchemeError
from mycomesh.tools.bridges.schemes import SCHEMES, scheme_named
said = {{}}
for name in SCHEMES:
    try:
        scheme_named(name)
    except SchemeError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def test_a_missing_library_is_named_with_its_extra():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said.keys() == {name for name, (_, extra) in SCHEMES.items() if extra}
    for name, text in said.items():
        assert text.endswith(f"which is not installed; run: pip install 'mycomesh[{SCHEMES[name][1]}]'"), text
        assert text.partition(" needs ")[2].partition(",")[0].partition(".")[0] in LIBRARIES, text
