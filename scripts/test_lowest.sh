#!/usr/bin/env bash
# The tests with the lowest series of every dependency that pyproject.toml allows: ./scripts/test_lowest.sh [PYTEST ARGUMENTS]
# Installs them into .venv-lowest (PyTorch is large: minutes). Linters are left to ./scripts/test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv-lowest/bin/python
[[ -x $python ]] || "$(command -v python3.11 || command -v python3)" -m venv .venv-lowest
"$python" - >.venv-lowest/lowest.txt <<'PYTHON'
import re
import tomllib

for each in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]:
    name, version = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\d.]+)", each).groups()
    print(f"{name}=={version}.*" if version.count(".") < 2 else f"{name}=={version}")
PYTHON
"$python" -m pip install --quiet --upgrade pip
"$python" -m pip install --quiet -c .venv-lowest/lowest.txt -e ".[dev]"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} XT_PYTHON=$PWD/$python PATH=$PWD/.venv-lowest/bin:$PATH
exec "$python" -m pytest --deselect tests/test_architecture.py "$@"
