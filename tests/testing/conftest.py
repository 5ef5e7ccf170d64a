import sys
from pathlib import Path

# importlib mode adds no folder to the path; these hold encoders that the tests share.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "models")]
