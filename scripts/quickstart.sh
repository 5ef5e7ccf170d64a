#!/usr/bin/env bash
# From nothing to pictures: installs into .venv, makes synthetic radar scenes, trains with context and without, predicts
# a scene that was not trained on, scores and draws. Run it again after a kill and it goes on; done work is not repeated.
#
#   ./scripts/quickstart.sh [FOLDER] [--seed N] [--scenes N] [-- KEY VALUE …]
#
# FOLDER is runs/quickstart by default; what stands behind -- overrides the config, such as --trainer.max_epochs 12.
set -euo pipefail
cd "$(dirname "$0")/.."

out=runs/quickstart seed=1 scenes=300
while (($#)); do
    case $1 in
    --seed) seed=${2:?--seed needs a number}; shift 2 ;;
    --scenes) scenes=${2:?--scenes needs a number}; shift 2 ;;
    --) shift; break ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "quickstart: unknown option $1; see --help" >&2; exit 2 ;;
    *) out=$1; shift ;;
    esac
done

python=${XT_PYTHON:-.venv/bin/python}
[[ -n ${XT_PYTHON:-} ]] || scripts/install.sh
xt() { "$python" -m xt.cli.main "$@"; }
step() { printf '\n== %s\n' "$*"; }

config=configs/xview3_demo.yaml data=$out/data
mkdir -p "$out"

step "1/4 synthetic scenes: in half of them vessels fish around a dark film, several regions away"
if [[ $(cat "$out/.scenes" 2>/dev/null) != "$scenes" ]]; then
    xt synth xview3 "$data" --scenes "$scenes" --size 512 --seed 5
    echo "$scenes" >"$out/.scenes"
fi

step "2/4 training with context (log here) and, beside it, without (log in $out/no_context.log)"
cores=$(getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=$((cores > 1 ? cores / 2 : 1))
common=(--data.root "$data" --seed_everything "$seed" "$@")
xt train $config "${common[@]}" --run_dir "$out/no_context" --model.model.context Identity >"$out/no_context.log" 2>&1 &
other=$!
trap 'kill "$other" 2>/dev/null || true' EXIT
xt train $config "${common[@]}" --run_dir "$out/context"
wait "$other" || { tail -n 3 "$out/no_context.log" >&2; exit 1; }
trap - EXIT

step "3/4 scores on scenes not trained on, and GeoTIFFs of two of them"
unmeasured=()
for name in context no_context; do
    [[ $out/$name/test.json -nt $out/$name/model/config.json ]] || unmeasured+=("$out/$name")
done
((${#unmeasured[@]} == 0)) || xt eval "${unmeasured[@]}" --split test --data.root "$data" >"$out/scores.txt"
mapfile -t folders < <(find "$data/test" -mindepth 1 -maxdepth 1 -type d | sort | head -n 2)
predicted=$out/predicted points=() missing=()
for scene in "${folders[@]}"; do
    name=$(basename "$scene")
    [[ $predicted/$name.tif -nt $out/context/model/config.json ]] || missing+=("$scene")
    points+=("$predicted/$name.csv")
done
mkdir -p "$predicted"
((${#missing[@]} == 0)) || xt predict "${missing[@]}" -m "$out/context" -o "$predicted" --overwrite
echo "score of $name alone:"
xt score "${points[-1]}" "$data/test.csv" --shoreline "$data/shoreline" --scene "$name"

step "4/4 pictures"
xt report "$out/context" "$out/no_context" -o "$out/pictures" --scene "${folders[@]}" --points "${points[@]}" \
    --labels "$data/test.csv"

cat <<END

Done. Look at
  $out/pictures/scenes.png   two scenes with what is there and what was found
  $out/pictures/scores.png   scores with and without context: fishing needs it, the rest does not
  $out/pictures/losses.png   losses and validation scores
  $predicted/*.tif, .csv, .gpkg, .geojson   maps and points of these scenes, for QGIS and the like

Next
  xt predict YOUR.tif -m $out/context -o your.tif       two bands, VV and VH in dB
  xt train configs/xview3_4096_512.yaml --data.root DIR  the real thing, on the scenes of iuu.xview.us (a GPU helps)
  docs/own-points.md, docs/training.md                   images and labels of your own
  docs/context-encoders.md, docs/own-parts.md            context encoders and other parts of your own
END
