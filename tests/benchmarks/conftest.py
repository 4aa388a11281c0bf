"""The bench is scripts in a folder of its own: its modules are found there, behind everything else."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
