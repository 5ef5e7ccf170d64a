#!/usr/bin/env bash
# Installs what the tests need into .venv and runs them, all on several cores; with arguments, which go to pytest, on one.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ -n ${XT_PYTHON:-} ]] || scripts/install.sh dev
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # small tensors: a second thread mostly waits
[[ $# -gt 0 ]] || set -- -n auto --maxprocesses 4 --dist loadfile
exec "${XT_PYTHON:-.venv/bin/python}" -m pytest "$@"
