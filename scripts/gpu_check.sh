#!/usr/bin/env bash
# Tests and benchmarks that need a GPU, in about five minutes: ./scripts/gpu_check.sh [FOLDER], which gets the results as JSON.
# XT_PYTHON names the interpreter (.venv/bin/python); it needs torch, triton, timm, numba, pytest and pytest-timeout.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
python=${XT_PYTHON:-.venv/bin/python}
export PYTHONPATH=.:kernels PYTHONUNBUFFERED=1
"$python" -m pytest -q -m gpu tests/kernels -p no:cacheprovider
"$python" scripts/gpu_scan.py "$out"
"$python" scripts/gpu_hyper.py "$out"
"$python" scripts/gpu_encoder.py "$out"
