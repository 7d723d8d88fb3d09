#!/usr/bin/env python3
# Done:  One live batch of 180 KB: 20,000 rows that a UNIQUE of this file refuses.
# Right: The longest hold of the file's write lock takes less than 0.5 s of CPU (the promise of ADR 12).
# At 144e983: wrong, the write lock is held for 5.6 s of CPU.
# Needs: the Python that MYCOMESH is installed in, beside it; it imports modules of the product
# usage: live_batch_holds_lock.py MYCOMESH    (prints one line; exit 0 right, 1 wrong, 2 not tried)

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
import os, sqlite3, sys, time
batch, replica = owner("Bundle"), owner("Replica")
Bundle, Group, Kind, Section = batch.Bundle, batch.Group, batch.Kind, batch.Section
Replica, ReplicaConfig = replica.Replica, replica.ReplicaConfig
path = sys.argv[1]
db = sqlite3.connect(path)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE d(id INTEGER PRIMARY KEY, u UNIQUE)")
db.execute("INSERT INTO d VALUES(-1, 'u')")
db.commit()
db.close()
holds, since = [0.0], [0.0]
def holding(held):
    if held:
        since[0] = time.process_time()
    else:
        holds.append(time.process_time() - since[0])
now = int(time.time() * 1000)
replica = Replica.open(path, node_id=b"A" * 16, mesh_key=bytes(32), entropy=os.urandom, config=ReplicaConfig(), hooks=owner("Hooks").Hooks(on_lock=holding))
while replica.drain(now)[1]:
    pass
count, site, hlc = 20000, b"B" * 8 + bytes(8), (now + 5) << 16
group = Group(site, Kind.INSERT, ("id", "u"), [hlc + n for n in range(count)], None, [[n, "u"] for n in range(count)], None)
holds.clear()
replica.apply(Bundle([Section("d", [(site, 0, hlc + count)], [group])]).encode(), now + 10, origin=b"B" * 16)
print(max(holds))
replica.close()
"""


def main():
    python = os.path.join(os.path.dirname(MY), "python")
    if not os.access(python, os.X_OK):
        raise NotTried("needs the Python that MYCOMESH is installed in, beside it")
    done = subprocess.run([python, "-c", PROBE, f"{T}/probe.db"], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise NotTried(f"the probe failed: {done.stderr.strip().splitlines()[-1]}")
    held = float(done.stdout)
    return "" if held < 0.5 else f"the write lock was held for {held:.1f} s of CPU"


try:
    wrong = main()
    verdict = f"wrong: {wrong}" if wrong else "right: the write lock was held for less than 0.5 s of CPU"
except NotTried as error:
    verdict = f"broken: {error}"
except Exception as error:
    verdict = f"wrong: the case broke off: {type(error).__name__}: {error}"
finally:
    shutil.rmtree(T, ignore_errors=True)
print(" ".join(verdict.split()))
sys.exit(("right", "wrong", "broken").index(verdict.split(":")[0]))
