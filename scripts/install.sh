#!/usr/bin/env bash
# Installs xt into .venv, once per pyproject.toml: ./scripts/install.sh [EXTRA], such as dev.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=${1:-}
stamp=.venv/.installed${extra:+-$extra}
want=$(sha256sum pyproject.toml)
[[ ! -f $stamp || $(<"$stamp") != "$want" ]] || exit 0
[[ -x .venv/bin/python ]] || "$(command -v python3.11 || command -v python3)" -m venv .venv
echo "installing into .venv (PyTorch is large: minutes)"
.venv/bin/python -m pip install --quiet --upgrade pip
.venv/bin/python -m pip install --quiet -e ".${extra:+[$extra]}"
echo "$want" >"$stamp"
