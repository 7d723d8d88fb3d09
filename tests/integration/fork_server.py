"""Starts `mycomesh` commands as forks of a process that has imported their modules.

Importing takes most of the CPU that starting a node costs, and the tests start hundreds. A fork is a real
process: it has its own id, can be killed, and ends as an interpreter ends. It differs from `python -m tools` only in what is
imported already, and tests/test_docs.py and others start that one. With `MYCOMESH_TEST_SCALE` set (`make long`), and in network
namespaces, each command is an interpreter of its own.

The server is single-threaded and opens no file and no database, so nothing is shared that a fork must not share.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REQUEST_MAX = 1 << 17  # with the environment
MODULES = (
    "mycomesh.tools.commands.up",
    "mycomesh.tools.commands.init",
    "mycomesh.tools.commands.join",
    "mycomesh.tools.commands.invite",
    "mycomesh.tools.commands.status",
)


class Forked:
    """A process that the server has forked, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, words, report):
        self.args = words
        self.returncode = None
        self._report = report  # from the server: the process id at once, the exit code at the end
        self.pid = int(report.recv(32))

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(self._report.recv(32))
            self._report.close()
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:  # the server has not reaped it, so its number is not another's
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


@functools.cache
def _server():
    """Start the server of this process, which ends with it; return the socket that takes requests."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.integration.fork_server", str(theirs.fileno())]
    server = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()

    def end():
        ours.close()
        server.wait()

    atexit.register(end)
    return ours


def start(words, output, errors):
    """Start `mycomesh` with these words, which writes to the two files."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        files = array.array("i", [theirs.fileno(), output.fileno(), errors.fileno()])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
        request = json.dumps([[str(word) for word in words], dict(os.environ)])
        _server().sendmsg([request.encode()], ancillary)
    return Forked(words, ours)


def run(words, timeout):
    """Run `mycomesh` with these words to its end, as `subprocess.run` with text does."""
    with memory_file("stdout") as output, memory_file("stderr") as errors:
        process = start(words, output, errors)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        texts = []
        for file in (output, errors):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess(words, code, *texts)


def memory_file(name):
    return os.fdopen(os.memfd_create(name), "w+b")


def _serve(requests):
    """Fork for each request; return it in the child, and None once nobody can ask any more."""
    waiting = selectors.DefaultSelector()
    waiting.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is not requests:
                _report_end(waiting, key)
                continue
            data, files, _, _ = socket.recv_fds(requests, REQUEST_MAX, 3)
            if not data:
                return None
            report = socket.socket(fileno=files[0])
            pid = os.fork()
            if not pid:
                _become(waiting, files[1:])
                report.close()
                return json.loads(data)
            report.send(str(pid).encode())
            for file in files[1:]:
                os.close(file)
            waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, report))


def _report_end(waiting, key):
    pid, report = key.data
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with report, contextlib.suppress(OSError):  # a test that does not wait has closed its end
        report.send(str(code).encode())
    waiting.unregister(key.fileobj)
    os.close(key.fileobj)


def _become(waiting, files):
    """Give the child its two files in place of what it has from the server."""
    for key in list(waiting.get_map().values()):
        if key.data is None:
            key.fileobj.close()
        else:
            os.close(key.fileobj)
            key.data[1].close()
    waiting.close()
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)


def main(requests):
    """Import what commands import, then fork; a child is the command from here on."""
    start = importlib.import_module("mycomesh.tools.start")  # sets the handling of ^C, as at a command's own start
    importlib.import_module("mycomesh.tools.lazy_dataclasses").install()
    importlib.import_module("mycomesh.tools.lean").load()
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()
    request = _serve(requests)
    if request is None:
        return 0
    words, environ = request
    os.environ.clear()
    os.environ.update(environ)
    sys.argv[:] = [str(ROOT / "tools" / "__main__.py"), *words]
    return start.main()


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))
