"""scripts/loadtest/stress.py under the name of the source system's script, with its flags."""

import sys

from loadtest.stress import main

if __name__ == "__main__":
    sys.exit(main())
