"""Entry point of the `mycomesh` command: a ^C while modules load ends the process silently.

Python would print a traceback. With the signal's default action the shell sees a process that SIGINT ended, as for any other
program. `main` restores Python's own handler once the command line is loaded.
"""

from __future__ import annotations

import importlib
import signal

__all__ = ["main"]

_INTERRUPTIBLE = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else ^C is ignored, as under nohup
if _INTERRUPTIBLE:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> int:
    """Load the command line and run it; return its exit code."""
    # Not imported above: it takes some ten milliseconds, in which ^C has to end the process silently.
    importlib.import_module("mycomesh.tools.lazy_dataclasses").install()
    cli = importlib.import_module("mycomesh.tools.cli")
    if _INTERRUPTIBLE:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code: int = cli.main()
    return code
