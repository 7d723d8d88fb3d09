"""`python -m tools` is the `mycomesh` command."""

import sys

from tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
