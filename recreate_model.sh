#!/usr/bin/env bash
# Recreate a model: (train,) cluster, convert the plain and the clustered model to fp32 and int8, evaluate all four.
set -euo pipefail

usage="usage: bash recreate_model.sh [--model NAME] [--train] [--ckpt PATH] [--data_dir DIR]

  --model NAME    a network of the paper, such as ds_cnn_small; dnn_small if not given, the only one that is shipped
  --train         train a teacher and then a new model first, instead of starting from the shipped weights
  --ckpt PATH     start from this checkpoint instead of the shipped weights
  --data_dir DIR  recordings, one folder per word; without it Speech Commands is downloaded (2.4 GB, once)"

fail() {
    echo "recreate_model.sh: error: $1" >&2
    echo "$usage" >&2
    exit 2
}

absolute() {
    case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
}

{  # bash reads this group as a whole, so that the file may change while it runs
train=false checkpoint='' data_dir='' network=()
while [ $# -gt 0 ]; do
    case $1 in
        --train) train=true ;;
        --model | --ckpt | --data_dir)
            [ -n "${2-}" ] || fail "$1 needs a value"
            case $1 in
                --model) network=(--model "$2") ;;
                --ckpt) checkpoint=$(absolute "$2") ;;
                --data_dir) data_dir=$(absolute "$2") ;;
            esac
            shift ;;
        -h | --help) echo "$usage"; exit ;;
        *) fail "unknown argument $1" ;;
    esac
    shift
done
if $train && [ -n "$checkpoint" ]; then
    fail "--train makes a new checkpoint, --ckpt starts from one: give one of the two"
fi
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh
name=$(  # of the architecture
    python - "$checkpoint" ${network[@]+"${network[@]}"} << 'EOF'
import sys

import models
from settings import UserError, new_parser, resolve, run


def main():
    checkpoint, *flags = sys.argv[1:]
    parser = new_parser("")
    models.add_arguments(parser)
    args = parser.parse_args(flags)
    stored = models.read_settings(checkpoint) if checkpoint else None
    if checkpoint and not stored and not flags:
        raise UserError(f"{checkpoint} carries no settings: --model must say what it is")
    print(resolve(args, stored, checkpoint).model_architecture)


sys.argv[0] = "recreate_model.sh"
run(main)
EOF
)
model=${network[1]-dnn_small}
if ! $train && [ -z "$checkpoint" ] && [ "$model" != dnn_small ]; then
    fail "$model is not shipped: train it with --train, or give its checkpoint with --ckpt"
fi

warning="
################################################################################
#  No recordings of Speech Commands here: running on sample_data, which is     #
#  synthetic speech. THESE FIGURES SAY NOTHING ABOUT THE MODEL.                #
#  With the recordings: bash recreate_model.sh --data_dir DIR                  #
################################################################################
"
has_recordings() {
    python -c 'import sys, pathlib, input_data; sys.exit(not input_data.word_folders(pathlib.Path(sys.argv[1])))' "$1"
}

can_download() {
    python -c 'import urllib.request, input_data; urllib.request.urlopen(input_data.DATA_URL, timeout=20)' 2>/dev/null
}

teacher_steps=14000 steps=160000 deep_steps=10000 optimise_steps=8000 deep_optimise_steps=2000 validate=2000 sample=false
if [ -n "$data_dir" ]; then
    out=work/recreated/$(basename "$data_dir")-$(cksum <<< "$data_dir" | cut -d ' ' -f 1)
    data=(--data_dir "$data_dir" --data_url '')
    canonical=$(dirname "$data_dir")/speech_commands_test_set_v0.02
    if [ -d "$canonical" ]; then test_set=(--test_dir "$canonical"); else test_set=(); fi
elif has_recordings data/speech_commands_v0.02 || can_download; then
    out=work/recreated/speech_commands_v0.02
    data=(--data_dir data/speech_commands_v0.02)
    test_set=(--test_dir data/speech_commands_test_set_v0.02)
    if ! has_recordings "${test_set[1]}" && ! can_download; then test_set=(); fi
else
    sample=true teacher_steps=100 steps=800 deep_steps=200 optimise_steps=300 deep_optimise_steps=100 validate=50
    out=work/recreated/sample_data
    data=(--data_dir sample_data --data_url '')
    test_set=()
    echo "$warning"
fi
teacher=$out/teacher
if [ -n "$checkpoint" ]; then
    out=$out/from_$(basename "$checkpoint")-$(cksum <<< "$checkpoint" | cut -d ' ' -f 1)
elif [ "$model" != dnn_small ]; then
    out=$out/$model
fi
if $train; then out=$out/trained; else rm -rf "$out/clustered"; fi
checkpoint=${checkpoint:-model_archive/model_source/weights}
mkdir -p "$out"
recipe=(
    --background_volume 0.2 --silence_volume 1
    --training_unknown_percentage 26 --learning_rate_schedule cosine --eval_step_interval $validate
)
varied=(--speed_change 12 --volume_change_db 6)
python input_data.py "${data[@]}" ${test_set[@]+"${test_set[@]}"}

if $train; then
    stages=("$teacher" "$out/train") earlier=
    if [ "$name" = dnn ]; then stages+=("$out/quantized"); fi
    for stage in "${stages[@]}" "$out/clustered"; do  # what one learnt from may have been deleted since
        if [ -n "$earlier" ] && [ ! -d "$earlier/resume" ]; then rm -rf "$stage"; fi
        earlier=$stage
    done
    echo "== train the teacher"
    python train.py "${data[@]}" "${recipe[@]}" --model_architecture tc_resnet --model_size_info 5 96 96 128 160 192 \
        --dct_coefficient_count 40 --window_size_ms 40 --window_stride_ms 20 --echo_factor 2 --batch_size 128 \
        --how_many_training_steps $teacher_steps --learning_rate 0.002 \
        --speed_change 15 --volume_change_db 8 --train_dir "$teacher"
    if [ "$name" = dnn ]; then
        learning=(
            --how_many_training_steps $steps --learning_rate 0.01 --optimizer muon --batch_norm
            --batch_size 256 --echo_factor 12
        )
    else
        learning=(--how_many_training_steps $deep_steps --learning_rate 0.002 --batch_size 128 --echo_factor 4)
    fi
    echo "== train"
    python train.py "${data[@]}" "${recipe[@]}" "${varied[@]}" "${learning[@]}" --model "$model" --teacher "$teacher/best" \
        --train_dir "$out/train"
    checkpoint=$out/train/best
fi

if [ "$name" = dnn ]; then
    fine_tuning=(--how_many_training_steps $optimise_steps --batch_size 256)
else
    fine_tuning=(--how_many_training_steps $deep_optimise_steps --batch_size 128)
fi
optimise=(
    python optimisations.py "${data[@]}" "${recipe[@]}" "${varied[@]}" "${fine_tuning[@]}" --echo_factor 8
    --learning_rate 0.00003
)
if $train && [ "$name" = dnn ]; then
    echo "== quantize the weights"
    "${optimise[@]}" --method quantization --checkpoint "$out/train/best" --teacher "$out/train/best" \
        --train_dir "$out/quantized"
    checkpoint=$out/quantized/best
fi

echo "== cluster $checkpoint"
"${optimise[@]}" ${network[@]+"${network[@]}"} --checkpoint "$checkpoint" --teacher "$checkpoint" --train_dir "$out/clustered"

files=()
for form in "$name" "${name}_clustered"; do
    source=$checkpoint
    if [ "$form" != "$name" ]; then source=$out/clustered/best; fi
    echo "== convert $source"
    convert=(python convert_to_tflite.py "${data[@]}" ${network[@]+"${network[@]}"} --checkpoint "$source")
    "${convert[@]}" --no-quantize --output "$out/$form.tflite"
    "${convert[@]}" --inference_type int8 --output "$out/${form}_quantized.tflite"
    files+=("$out/$form.tflite" "$out/${form}_quantized.tflite")
done

echo "== evaluate"
python evaluation.py "${data[@]}" ${test_set[@]+"${test_set[@]}"} --tflite_path "${files[@]}"
if $train; then
    echo
    echo "new checkpoint: $checkpoint"
    echo "to convert it:  python convert_to_tflite.py --checkpoint $checkpoint --inference_type int8 --data_dir ${data[1]}"
fi
if $sample; then echo "$warning"; fi
exit
}
