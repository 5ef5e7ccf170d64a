import sys
from pathlib import Path

# importlib mode adds no folder to the path; the parts of tests/models are used here too.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "models")]
