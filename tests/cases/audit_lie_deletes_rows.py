#!/usr/bin/env python3
# Done:  A dishonest third member says in catch-up that it has collected the tombstones of table d and holds none of its entries.
# Right: Both honest nodes still show their 20 rows, or the rows that went are in mycomesh_conflicts.
# At 144e983: wrong, all 20 rows vanish on both honest nodes and none is on record.
# Needs: the Python that MYCOMESH is installed in, beside it; it imports modules of the product
# usage: audit_lie_deletes_rows.py MYCOMESH    (prints one line; exit 0 right, 1 wrong, 2 not tried)

import json, os, shutil, signal, sqlite3, subprocess, sys, tempfile, time

MY = os.path.realpath(sys.argv[1])
T = tempfile.mkdtemp(prefix="mycomesh-case.")
nodes = {}


class NotTried(Exception):
    """The case cannot be tried here, or has to be brought up to date: neither right nor wrong."""


def cmd(node, *args):
    return subprocess.run([MY, "--home", f"{T}/{node}", *args], capture_output=True, text=True, timeout=60)


def up(node, *limits):
    log = open(f"{T}/{node}.log", "a")
    nodes[node] = subprocess.Popen(
        [*limits, MY, "--home", f"{T}/{node}", "up", f"{T}/{node}.db", "--loopback", "--port", "0"],
        stdout=log,
        stderr=log,
    )
    until(lambda: json.loads(cmd(node, "status", "--json").stdout)["phase"] == "serving", 30)


def sql(node, text, *values, timeout=10):
    db = sqlite3.connect(f"{T}/{node}.db", timeout=timeout, isolation_level=None)
    try:
        return db.execute(text, values).fetchall()
    finally:
        db.close()


def until(what, seconds):
    end = time.time() + seconds
    while time.time() < end:
        try:
            if what():
                return True
        except Exception:
            pass
        time.sleep(0.2)
    return False


def pair(*limits):
    """Two linked nodes with table d and one row; a is honest, b is another member."""
    cmd("a", "init", "--node-name", "a")
    up("a", *limits)
    code = cmd("a", "invite").stdout.split()[0]
    cmd("b", "join", code, "--node-name", "b", "--loopback")
    up("b", *limits)
    sql("a", "CREATE TABLE d(id INTEGER PRIMARY KEY, doc)")
    sql("a", "INSERT INTO d VALUES(1, '{}')")
    return until(lambda: sql("b", "SELECT 1 FROM d WHERE id = 1"), 20)


MEMBER = """
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
import importlib.metadata, os, sys, time
sys.argv[0] = "mycomesh"
stream, exchange, audit = owner("CatchUpStream"), owner("Exchange"), owner("reply_to", "tombstone_audit")
message, Vector = owner("AuditReply"), owner("Vector").Vector
read, told, answer = stream.CatchUpStream._read, exchange.Exchange._digests_for, audit.reply_to
def lying(self, chunk):
    read(self, chunk)
    if "d" in chunk.vectors:
        site, hlc = os.urandom(16), int(time.time() * 1000 - 5000) << 16
        chunk.vectors["d"] = chunk.vectors["d"].copy()
        chunk.vectors["d"].add(site, 0, hlc)
        chunk.collected["d"] = Vector({site: [(0, hlc)]})
def digests(self, number, *, remember=True):
    found = told(self, number, remember=remember)
    if "d" in found:
        open(os.environ["LIED"], "w").close()
        found["d"] = (os.urandom(8), found["d"][1])
    return found
def none(replica, question):
    if question.table != "d":
        return answer(replica, question)
    return message.AuditReply(question.table, question.site, question.after, question.upto, ())
stream.CatchUpStream._read, exchange.Exchange._digests_for, audit.reply_to = lying, digests, none
(command,) = importlib.metadata.entry_points(group="console_scripts", name="mycomesh")
sys.exit(command.load()())
"""


def main():
    python = os.path.join(os.path.dirname(MY), "python")
    if not os.access(python, os.X_OK):
        raise NotTried("needs the Python that MYCOMESH is installed in, beside it")
    if not pair():
        return "the nodes never met"
    for number in range(2, 21):
        sql("ab"[number % 2], "INSERT INTO d VALUES(?, 'x')", number)
    if not until(lambda: all(sql(node, "SELECT count(*) FROM d") == [(20,)] for node in "ab"), 20):
        return "the rows never met"
    code = cmd("a", "invite").stdout.split()[0]
    cmd("e", "join", code, "--node-name", "e", "--loopback")
    nodes["e"] = subprocess.Popen(
        [python, "-c", MEMBER, "--home", f"{T}/e", "up", f"{T}/e.db", "--loopback", "--port", "0"],
        env={**os.environ, "LIED": f"{T}/lied"},
        stdout=open(f"{T}/e.log", "w"),
        stderr=subprocess.STDOUT,
    )
    time.sleep(45)
    if not os.path.exists(f"{T}/lied") or not until(lambda: sql("e", "SELECT count(*) FROM d"), 5):
        raise NotTried("the dishonest member never lied: " + open(f"{T}/e.log").read().strip()[-150:])
    left = [sql(node, "SELECT count(*) FROM d")[0][0] for node in "ab"]
    kept = [sql(node, "SELECT count(*) FROM mycomesh_conflicts")[0][0] for node in "ab"]
    if all(count == 20 for count in left) or max(kept) >= 20 - min(left):
        return ""
    return f"of 20 rows {left[0]} and {left[1]} are left on the honest nodes, {max(kept)} on record as lost"


try:
    wrong = main()
    verdict = f"wrong: {wrong}" if wrong else "right: the honest nodes keep their rows, or have them on record"
except NotTried as error:
    verdict = f"broken: {error}"
except Exception as error:
    verdict = f"wrong: the case broke off: {type(error).__name__}: {error}"
finally:
    for process in nodes.values():
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    shutil.rmtree(T, ignore_errors=True)
print(" ".join(verdict.split()))
sys.exit(("right", "wrong", "broken").index(verdict.split(":")[0]))
