"""`python -m simulations`: the same as `mycomesh simulate`."""

from __future__ import annotations

import argparse
import sys

from simulations.cli import add_arguments, main

parser = argparse.ArgumentParser(prog="python -m simulations", description=main.__doc__)
add_arguments(parser)
sys.exit(main(parser.parse_args()))
