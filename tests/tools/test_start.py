"""The entry point of the command: ^C while modules load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

SLOW = "import sys; sys.argv = ['mycomesh', '--version']; from mycomesh.tools import start; {act}; start.main()"
INTERRUPT = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"


def _run(act, preexec=None):
    return subprocess.run(
        [sys.executable, "-c", SLOW.format(act=act)], capture_output=True, text=True, check=False, preexec_fn=preexec
    )


def test_an_interrupt_while_the_command_loads_is_silent():
    done = _run(INTERRUPT)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_ignored_interrupt_stays_ignored():
    done = _run(INTERRUPT, preexec=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("mycomesh ")


def test_the_command_handles_interrupts_itself_once_it_is_loaded():
    script = (
        "import signal; from mycomesh.tools import cli, start;"
        "cli.main = lambda: print(signal.getsignal(signal.SIGINT) is signal.default_int_handler) or 0;"
        "start.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "True\n"
