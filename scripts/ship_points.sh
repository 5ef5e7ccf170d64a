#!/usr/bin/env bash
# Ships in SAR crops as points: three seeds with and without context, location F1 on the held-out scene, and a picture.
# Usage: ./scripts/ship_points.sh DIR [OUT] [KEY VALUE …]; run it again after a kill and it goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:?usage: ./scripts/ship_points.sh DIR [OUT] [KEY VALUE …], DIR with images/ and masks/} out=${2:-runs/ship_points}
shift $(($# < 2 ? $# : 2))
config=configs/ship_points.yaml data=$out/data
python=${XT_PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}
xt() { "$python" -m xt.cli.main "$@"; }

"$python" scripts/ship_points.py "$dir" "$data"
held_out=("$data"/images/P0021_*)
for seed in 1 2 3; do
    for name in context identity; do
        run=$out/${name}_$seed without=()
        [[ $name == context ]] || without=(--model.model.context Identity)
        xt train $config --data.root "$data" --seed_everything $seed --data.seed $seed --run_dir "$run" \
            "${without[@]}" "$@"
        for split in validation test; do
            xt eval "$run" --split $split --json --data.root "$data" >/dev/null
        done
        mkdir -p "$run/predicted"
        xt predict "${held_out[@]}" -m "$run" -o "$run/predicted" --bands 1 --tile 800 --overwrite
    done
done
xt report "$out"/{context,identity}_1 -o "$out/pictures" --scene "${held_out[@]}" --labels "$data/points.csv" \
    --points "$out"/context_1/predicted/*.csv

"$python" - "$out" <<'END'
import json
import sys
from pathlib import Path

from xt.data.labels import LabelTable, read_labels
from xt.data.predictions import read_predictions
from xt.metrics.xview3 import score

labels = read_labels(Path(sys.argv[1]) / "data/points.csv")
for run in sorted(Path(sys.argv[1]).glob("*_[123]")):
    found = LabelTable.concatenate([read_predictions(path) for path in sorted(run.glob("predicted/*.csv"))])
    truth = LabelTable.concatenate([labels.scene(path.stem) for path in run.glob("predicted/*.csv")])
    result = score(found, truth)
    validation = json.loads((run / "validation.json").read_text())["val/loc_fscore"]
    test = json.loads((run / "test.json").read_text())["test/loc_fscore"]
    print(
        f"{run.name:11} location F1: validation {validation:.3f}, held out {test:.3f} (predicted: "
        f"{result.loc_fscore:.3f}, {result.true_positives} of {len(truth)} found, {result.false_positives} false)"
    )
END
times
