"""Shared by the tests of this folder."""

import sys
from pathlib import Path

# importlib mode adds no folder to the path; map_files.py is shared by the tests of this folder.
sys.path.insert(0, str(Path(__file__).parent))
