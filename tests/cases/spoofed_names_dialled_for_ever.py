#!/usr/bin/env python3
# Done:  64 spoofed mDNS names where nobody answers, told again every 30 s from the node's own cache, for ten minutes of simulated time.
# Right: Each is dialled about eight times (docs/attacks.md), at most twelve, and then left alone.
# At 144e983: wrong, 7,680 dials, and no end.
# Needs: the Python that MYCOMESH is installed in, beside it; it imports modules of the product
# usage: spoofed_names_dialled_for_ever.py MYCOMESH    (prints one line; exit 0 right, 1 wrong, 2 not tried)

import os, shutil, subprocess, sys, tempfile

MY = os.path.realpath(sys.argv[1])
T = tempfile.mkdtemp(prefix="mycomesh-case.")


class NotTried(Exception):
    """The case cannot be tried here, or has to be brought up to date: neither right nor wrong."""


PROBE = """
import importlib, pkgutil
def owner(name, part=""):
    '''The module that defines a name, wherever it has moved since.'''
    for root in ("mycomesh", "sync", "mesh"):
        try:
            found = importlib.import_module(root)
        except ImportError:
            continue
        for module in pkgutil.walk_packages(found.__path__, root + "."):
            if part not in module.name or module.name.endswith("__main__"):
                continue
            try:
                module = importlib.import_module(module.name)
            except ImportError:
                continue
            if getattr(getattr(module, name, None), "__module__", None) == module.__name__:
                return module
    raise LookupError(name + " is in no module: bring the case up to date")
import random
MeshConfig, Dialer, events = owner("MeshConfig").MeshConfig, owner("Dialer").Dialer, owner("AddressFound")
Address, AddressFound, DialFailed = events.Address, events.AddressFound, events.DialFailed
dialer, names = Dialer(MeshConfig(), random.Random(1)), [Address(f"10.0.0.{n}", 9) for n in range(64)]
now = told = dials = 0
flying = []
while now < 600_000:
    if now >= told:
        for name in names:
            dialer.on_event(AddressFound(name, False, "x"), now)
        told += 30_000
    for name in dialer.start_dials(now):
        flying.append(name)
        dials += 1
    if flying:
        dialer.on_event(DialFailed(flying.pop(0)), now)
        continue
    now = max(now + 1, min(told, dialer.deadline() or told))
print(dials)
"""


def main():
    python = os.path.join(os.path.dirname(MY), "python")
    if not os.access(python, os.X_OK):
        raise NotTried("needs the Python that MYCOMESH is installed in, beside it")
    done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise NotTried(f"the probe failed: {done.stderr.strip().splitlines()[-1]}")
    dials = int(done.stdout)
    return "" if dials <= 64 * 12 else f"{dials} dials of 64 dead names in ten minutes, and no end"


try:
    wrong = main()
    verdict = f"wrong: {wrong}" if wrong else "right: dead names are left alone"
except NotTried as error:
    verdict = f"broken: {error}"
except Exception as error:
    verdict = f"wrong: the case broke off: {type(error).__name__}: {error}"
finally:
    shutil.rmtree(T, ignore_errors=True)
print(" ".join(verdict.split()))
sys.exit(("right", "wrong", "broken").index(verdict.split(":")[0]))
