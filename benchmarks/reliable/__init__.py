"""What benchmarks/reliability.py tries, a file a subject; the tiny model and the damage are those of tests/."""

import sys
from pathlib import Path

if (tests := str(Path(__file__).parents[2] / "tests")) not in sys.path:
    sys.path.insert(0, tests)
