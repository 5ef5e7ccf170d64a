#!/usr/bin/env bash
# Ships in SAR crops as points: three seeds with and without context, location F1 on the held-out scene, and a picture.
# Usage: ./scripts/ship_points.sh DIR [OUT] [KEY VALUE …]; run it again after a kill and it goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:?usage: ./scripts/ship_points.sh DIR [OUT] [KEY VALUE …], DIR with images/ and masks/} out=${2:-runs/ship_points}
shift $(($# < 2 ? $# : 2))
config=configs/ship_points.yaml data=$out/data
python=${XT_PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
xt() { "$python" -m xt.cli.main "$@"; }

"$python" scripts/ship_points.py "$dir" "$data"
for seed in 1 2 3; do
    for name in context identity; do
        without=() run=$out/${name}_$seed
        [ $name = context ] || without=(--model.model.context Identity)
        xt train $config --data.root "$data" --seed_everything $seed --data.seed $seed --run_dir "$run" \
            "${without[@]}" "$@"
        for split in validation test; do
            xt eval "$run" --split $split --json --data.root "$data" >"$run.$split.json"
        done
    done
done

"$python" - "$out" <<'END'
import json, statistics, sys

for split in ("validation", "test"):
    for name in ("context", "identity"):
        runs = [f"{sys.argv[1]}/{name}_{seed}/{split}.json" for seed in (1, 2, 3)]
        scores = [json.load(open(run))[f"{split if split == 'test' else 'val'}/loc_fscore"] for run in runs]
        each = "  ".join(f"{score:.3f}" for score in scores)
        print(f"location F1, {split:10} {name:8}  {each}   mean {statistics.mean(scores):.3f}")
END

held_out=("$data"/images/P0021_*)
mkdir -p "$out/predicted"
for name in context identity; do
    mkdir -p "$out/predicted/$name"
    xt predict "${held_out[@]}" -m "$out/${name}_1" -o "$out/predicted/$name" --bands 1 --tile 800 --overwrite
done
