#!/usr/bin/env bash
# Ships in SAR crops: three seeds with and without context, on the held-out scene, beside a tuned threshold.
# Usage: ./scripts/ships.sh DIR [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
data=$(realpath "${1:?usage: ./scripts/ships.sh DIR [OUT], DIR with images/ and masks/}") out=${2:-runs/ships}
config=configs/segmentation_ships.yaml
python=${XT_PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1

mkdir -p "$out"
"$python" -m xt.analysis.threshold_baseline $config --root "$data"
for seed in 1 2 3; do
    for context in '{class_path: Mamba, init_args: {depth: 2}}' Identity; do
        name=$([ "$context" = Identity ] && echo identity || echo mamba)_$seed
        "$python" -m xt.cli.main train $config --data.root "$data" --seed_everything $seed --data.seed $seed \
            --model.model.context "$context" --run_dir "$out/$name"
        for split in validation test; do
            "$python" -m xt.cli.main eval "$out/$name" --split $split --json | tail -n 1 | tee "$out/$name.$split.json"
        done
    done
done
