"""`python -m tools` is the `mycomesh` command."""

import sys

from mycomesh.tools.start import main

if __name__ == "__main__":
    sys.exit(main())
