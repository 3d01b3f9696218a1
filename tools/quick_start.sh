#!/usr/bin/env bash
# Set up an environment in .venv, then train, evaluate, export and predict on real handwritten digits.
# Usage: bash tools/quick_start.sh [se|cbam]        (about 5 minutes on 2 cores)
set -euo pipefail
cd "$(dirname "$0")/.."
network=${1:-se}
config=ppcls_configs/quick_start/${network}_resnet18_digits.yaml
output=output/digits_${network}_resnet18
[ -f "$config" ] || { echo "there is no $config; choose se or cbam" >&2; exit 2; }

source tools/setup_venv.sh .venv cpu,ppcls

python -m paddle_attention digits dataset/digits
python tools/train.py -c "$config"
python tools/eval.py -c "$config" -o Global.pretrained_model=$output/best_model
python tools/export_model.py -c "$config" -o Global.pretrained_model=$output/best_model
echo "Paddle Inference on dataset/digits/7/0044.bmp, a held-out 7:"
python tools/predict.py -c "$config" -o Infer.infer_imgs=dataset/digits/7/0044.bmp
python tools/visualize.py maps -c "$config" -o Global.pretrained_model=$output/best_model \
    --images dataset/digits/7/0044.bmp --output "$output"

echo
echo "images and lists:  $PWD/dataset/digits"
echo "checkpoints, logs: $PWD/$output"
echo "inference model:   $PWD/$output/inference"
echo "what its attention does with a 7: $PWD/$output/maps_7_0044.png"
