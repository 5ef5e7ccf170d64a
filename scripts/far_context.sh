#!/usr/bin/env bash
# What every context encoder learns of far context, at equal parameters and steps, with three seeds: vessels of synthetic
# radar scenes fish where a dark film lies several regions away. One model without context makes the tokens on which all
# contexts are trained. Run it again after a kill and it goes on; done work is not repeated.
#
#   ./scripts/far_context.sh [OUT [NAME …]] [OPTION …]
#
# OUT is runs/far_context by default. Encoders that are named are compared with the built-in ones; options are those of
# xt bench contexts:
#
#   ./scripts/far_context.sh runs/far_context MyContext:num_heads=2 --plugins my_context
#
# The arguments of the attention encoders are such that 256 tokens are many for them.
set -euo pipefail
cd "$(dirname "$0")/.."
out=runs/far_context own=()
if (($#)) && [[ $1 != -* ]]; then out=$1; shift; fi
while (($#)) && [[ $1 != -* ]]; do own+=("$1"); shift; done
python=${XT_PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1
xt() { "$python" -m xt.cli.main "$@"; }

[[ -e $out/.scenes ]] || { xt synth xview3 "$out/data" --scenes 300 --size 512 --seed 5 && touch "$out/.scenes"; }
xt train configs/xview3_demo.yaml --data.root "$out/data" --run_dir "$out/detect" --model.model.context Identity \
    --trainer.max_epochs 3 --trainer.check_val_every_n_epoch 3
for split in train validation test; do
    xt features "$out/data/$split"/* -m "$out/detect" -o "$out/tokens/$split"
done
xt bench contexts Identity FullAttention:head_dim=32 \
    Hyper:head_dim=32,min_seq_len=128,block_size=32,sample_size=32 \
    TransformerXL:head_dim=32,min_seq_len=128,block_size=32,sample_size=32 \
    TransformerXL:head_dim=32,min_seq_len=128,block_size=32,sample_size=32,chunk_regions=32 \
    'LongNet:head_dim=32,segment_lengths=[32,64,128,256],dilations=[1,2,4,8]' MSA:head_dim=32,window=4 \
    Mamba Mamba2:head_dim=32 Vim RSMamba SS2D TimeMachine \
    RWKV:version=4 RWKV:version=6,head_dim=32 \
    Jamba:depth=5,expand=1,num_experts=2,top_k=1,head_dim=32,min_seq_len=128 "${own[@]}" \
    --parameters 132k --learn configs/xview3_demo_context.yaml --threads 1 -o "$out/bench" \
    --set "model.init_from=$out/detect" --set "data.root=$out/tokens" --set "data.labels=$out/data" \
    --set trainer.max_epochs=15 --set trainer.check_val_every_n_epoch=2 --seeds 1,2,3 "$@"
