import sys
from pathlib import Path

# importlib mode adds no folder to the path; the literal equations lie beside the context encoders.
sys.path.insert(0, str(Path(__file__).parents[1] / "context"))
