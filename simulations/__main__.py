"""`python -m simulations`: the same as `mycomesh simulate`."""

from __future__ import annotations

import argparse
import sys

from mycomesh.simulations.cli import add_arguments, main

if __name__ == "__main__":  # the processes of a sweep may import it again
    parser = argparse.ArgumentParser(prog="python -m simulations", description=main.__doc__)
    add_arguments(parser)
    sys.exit(main(parser.parse_args()))
