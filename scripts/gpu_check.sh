#!/usr/bin/env bash
# Tests and benchmarks that need a GPU, in minutes: ./scripts/gpu_check.sh [FOLDER], which gets the results.
# XT_PYTHON names the interpreter (.venv/bin/python); it needs what pyproject.toml names, pytest and pytest-timeout. With
# pytest-xdist the tests, which mostly compile, run eight at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
python=${XT_PYTHON:-.venv/bin/python}
export PYTHONPATH=.:kernels${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
together=()
if "$python" -c "import xdist" 2>/dev/null; then together=(-n 8); fi
"$python" kernels/benchmarks/gpu_scan.py "$out"
"$python" -m pytest -q -m gpu tests -p no:cacheprovider "${together[@]}"
"$python" scripts/step_profile.py configs/xview3_4096_512.yaml --size 4096 --device cuda --precision bf16 | tee "$out/gpu_step.txt"
"$python" scripts/scene_memory.py 6144x6144 --model swin --precision bf16 | tee "$out/gpu_scene.txt"
"$python" kernels/benchmarks/gpu_hyper.py "$out"
"$python" scripts/gpu_encoder.py "$out"
