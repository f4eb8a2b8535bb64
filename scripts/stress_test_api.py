"""scripts/loadtest/stress.py under the name of the source system's script, with its flags."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest.stress import main

if __name__ == "__main__":
    sys.exit(main())
