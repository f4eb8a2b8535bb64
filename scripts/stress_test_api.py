"""The stress test by the name of the source system's script, with its flags: `scripts/loadtest/stress.py`."""

import sys

from loadtest.stress import main

if __name__ == "__main__":
    sys.exit(main())
