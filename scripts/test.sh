#!/usr/bin/env bash
# Installs what the tests need into .venv (once per pyproject.toml) and runs them; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${XT_PYTHON:-.venv/bin/python}
if [[ -z ${XT_PYTHON:-} ]]; then
    base=$(command -v python3.11 || command -v python3)
    [[ -x $python ]] || "$base" -m venv .venv
    stamp=.venv/.installed-dev
    want=$(sha256sum pyproject.toml)
    if [[ ! -f $stamp || $(<"$stamp") != "$want" ]]; then
        "$python" -m pip install --quiet --upgrade pip
        "$python" -m pip install --quiet -e '.[dev]'
        echo "$want" > "$stamp"
    fi
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
exec "$python" -m pytest "$@"
