"""The `mycomesh` command as `python -m tools`."""

import sys

from mycomesh.tools.start import main

if __name__ == "__main__":
    sys.exit(main())
