#!/usr/bin/env bash
# Recreate a model: (train,) cluster, convert to fp32 and int8, evaluate. The recipes are in recipes/.
# Clusters are made twice: by tensorflow-model-optimization, and such that they take few bits in a zip file.
set -euo pipefail

usage="usage: bash recreate_model.sh [--model NAME] [--train [--negatives_dir DIR [--ambient DIR]]]
                              [--ckpt PATH] [--data_dir DIR]

  --model NAME    a network of the paper, such as ds_cnn_small; dnn_small if not given
  --train         train a teacher and then a new model, instead of starting from the shipped weights
  --negatives_dir DIR
                  recordings without the words, for a model for an open microphone and its verifier
  --ambient DIR   other such recordings, on which these models' thresholds are chosen
  --ckpt PATH     start from this checkpoint instead of the shipped weights
  --data_dir DIR  recordings, one folder per word; without it Speech Commands is downloaded (2.4 GB, once)

On two cores this takes some 14 minutes, with --train some 100, with --negatives_dir two and a half hours.
The same command resumes an interrupted --train. --train --negatives_dir DIR --ambient DIR makes every file of
model_archive/TFLite."

fail() {
    echo "recreate_model.sh: error: $1" >&2
    echo "$usage" >&2
    exit 2
}

{  # bash reads this group as a whole, so that the file may change while it runs
trap 'exit 130' INT
train=false model='' checkpoint='' data_dir='' negatives_dir='' ambient_dir=''
while [ $# -gt 0 ]; do
    case $1 in
        --train) train=true; shift; continue ;;
        -h | --help) echo "$usage"; exit ;;
        --model | --ckpt | --data_dir | --negatives_dir | --ambient) [ -n "${2-}" ] || fail "$1 needs a value" ;;
        *) fail "unknown argument $1" ;;
    esac
    case $1 in
        --model) model=$2 ;;
        --ckpt) checkpoint=$(realpath -ms "$2") ;;
        --data_dir) data_dir=$(realpath -ms "$2") ;;
        --negatives_dir) negatives_dir=$(realpath -ms "$2") ;;
        --ambient) ambient_dir=$(realpath -ms "$2") ;;
    esac
    shift 2
done
if $train && [ -n "$checkpoint" ]; then
    fail "--train makes a new checkpoint, --ckpt starts from one: give one of the two"
elif [ -n "$negatives_dir" ] && ! $train; then
    fail "--negatives_dir is for training: it needs --train"
elif [ -n "$ambient_dir" ] && [ -z "$negatives_dir" ]; then
    fail "--ambient is for the model for an open microphone: it needs --negatives_dir"
fi
for dir in "$negatives_dir" "$ambient_dir"; do  # they are read an hour later
    if [ -n "$dir" ] && [ ! -d "$dir" ]; then fail "$dir is not a folder"; fi
done

# ---- which model ----

cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh
network=()
if [ -n "$model" ]; then network=(--model "$model"); fi
architecture=$(python models.py ${checkpoint:+"$checkpoint"} --architecture "${network[@]}") || exit 2
if [ -n "$checkpoint" ]; then model=${model:-$architecture}; else model=${model:-dnn_small}; fi
if [ -n "$negatives_dir" ] && [ "$architecture" != dnn ]; then
    fail "--negatives_dir is for dnn models, not $model"
elif ! $train && [ -z "$checkpoint" ] && [ "$model" != dnn_small ]; then
    fail "$model has no shipped weights: train it with --train, or give its checkpoint with --ckpt"
fi

# ---- which recordings ----

named() {  # named PATH: a name for a folder, different for paths that end alike
    echo "$(basename "$1")-$(cksum <<< "$1" | cut -d ' ' -f 1)"
}

sample=false status=0 test_set=()
if [ -z "$data_dir" ]; then
    python input_data.py --data_dir data/speech_commands_v0.02 || status=$?
    # 2 with nothing there: the line above says why they cannot be downloaded
    if [ "$status" = 2 ] && [ -z "$(ls data/speech_commands_v0.02 2> /dev/null)" ]; then
        sample=true
    elif [ "$status" != 0 ]; then
        exit "$status"
    fi
fi
if $sample; then
    out=work/recreated/sample_data
    data=(--data_dir sample_data --data_url '')
    cat << 'EOF'

################################################################################
#  No recordings of Speech Commands here: running on sample_data, which is     #
#  synthetic voices. Figures on it show that the chain works, not how good     #
#  the model is: a teacher network chose clips that it understands.            #
#  With the recordings: bash recreate_model.sh --data_dir DIR                  #
################################################################################

EOF
elif [ -n "$data_dir" ]; then
    out=work/recreated/$(named "$data_dir")
    data=(--data_dir "$data_dir" --data_url '')
    canonical=$(dirname "$data_dir")/speech_commands_test_set_v0.02
    if [ -d "$canonical" ]; then test_set=(--test_dir "$canonical"); fi
    python input_data.py "${data[@]}" "${test_set[@]}"
else
    out=work/recreated/speech_commands_v0.02
    data=(--data_dir data/speech_commands_v0.02)
    test_set=(--test_dir data/speech_commands_test_set_v0.02)
    python input_data.py "${data[@]}" "${test_set[@]}" > /dev/null || test_set=()
fi
teacher=$out/teacher
if [ -n "$checkpoint" ]; then
    out=$out/from_$(named "$checkpoint")
elif [ "$model" != dnn_small ]; then
    out=$out/$model
fi
if $train; then out=$out/trained; fi
mkdir -p "$out"

# ---- train and cluster ----

new=true  # whether what is made from here on is made anew
if $train; then new=false; fi
stage() {  # stage FOLDER STEPS SCRIPT FLAGS: train into FOLDER, or resume; STEPS are for the sample data
    local folder=$1 shorter=()
    echo "== $folder: ${*:3}"
    if $new; then rm -rf "$folder"; elif [ ! -d "$folder/resume" ]; then new=true; fi
    # one line of progress
    if $sample; then shorter=(--how_many_training_steps "$2" --eval_step_interval "$2"); fi
    python "${@:3}" "${shorter[@]}" "${data[@]}" --train_dir "$folder"
}

if $train; then
    stage "$teacher" 100 train.py @recipes/teacher.txt
    if [ "$architecture" = dnn ]; then
        stage "$out/train" 800 train.py @recipes/dnn_small.txt --model "$model" --teacher "$teacher/best"
        stage "$out/quantized" 300 optimisations.py @recipes/quantize.txt \
            --checkpoint "$out/train/best" --teacher "$out/train/best"
        checkpoint=$out/quantized/best
    else
        stage "$out/train" 200 train.py @recipes/deep.txt --model "$model" --teacher "$teacher/best"
        checkpoint=$out/train/best
    fi
fi
checkpoint=${checkpoint:-model_archive/model_source/weights}

cluster() {  # cluster METHOD CHECKPOINT FOLDER [FLAGS]: taught by the model before clustering
    local recipe=deep_cluster steps=100
    if [ "$architecture" = dnn ]; then recipe=cluster steps=300; fi
    stage "$3" "$steps" optimisations.py "@recipes/$recipe.txt" --method "$1" "${@:4}" "${network[@]}" \
        --checkpoint "$2" --teacher "$checkpoint"
}

best_of() {  # best_of FOLDER...: the training that validates best, by the accuracy in its best checkpoint's name
    local folder
    for folder in "$@"; do
        find "$folder/best" -name '*.index' | sed -n "s|.*_\([0-9]*\)\.ckpt-[0-9]*\.index|\1 $folder|p"
    done | sort -s -k 1,1nr | sed -n '1s/^[0-9]* //p'
}

clustered=$out/clustered
case $architecture in
    lstm) clustered='' ; echo "== tensorflow-model-optimization cannot cluster lstm's projected cells" ;;
    *) cluster clustering "$checkpoint" "$clustered" ;;
esac
case $architecture in  # cluster-preserving training fits the clusters to int8
    dnn)  # accuracies differ between seeds by some tenths of a point
        seeds=(0 1 2)
        if $sample; then seeds=(0); fi
        for seed in "${seeds[@]}"; do
            cluster cqat "$clustered/best" "$out/cqat/$seed" --how_many_training_steps 4000 --seed "$seed"
        done
        clustered=$(best_of "$out"/cqat/*)
        echo "== of $out/cqat the best on validation clips: ${clustered##*/}"
        # half the values take less flash, packed for C
        cluster clustering "$checkpoint" "$out/clustered_16" --clusters 16
        cluster cqat "$out/clustered_16/best" "$out/cqat_16" --how_many_training_steps 4000 ;;
    cnn | ds_cnn)
        cluster cqat "$clustered/best" "$out/cqat"
        clustered=$out/cqat ;;
esac
cluster entropy "$checkpoint" "$out/entropy"

if [ -n "$negatives_dir" ]; then
    negatives=(--negatives_dir "$negatives_dir") ambient=()
    if [ -n "$ambient_dir" ]; then ambient=(--ambient "$ambient_dir"); fi
    stage "$out/microphone" 100 train.py @recipes/microphone.txt "${negatives[@]}" "${ambient[@]}" \
        --model "$model" --start_from "$checkpoint" --teacher "$teacher/best"
    stage "$out/microphone_int8" 100 optimisations.py @recipes/microphone_quantize.txt "${negatives[@]}" \
        "${ambient[@]}" --checkpoint "$out/microphone/best" --teacher "$out/microphone/best"
    stage "$out/verifier_1" 100 train.py @recipes/verifier.txt "${negatives[@]}"
    taught=(train.py @recipes/verifier_taught.txt "${negatives[@]}" --teacher "$teacher/best")
    stage "$out/verifier_2" 100 "${taught[@]}" --start_from "$out/verifier_1/best"
    stage "$out/verifier_3" 100 "${taught[@]}" --start_from "$out/verifier_2/best" --prior_correction
    stage "$out/stream" 100 train.py @recipes/stream.txt "${negatives[@]}" --teacher "$teacher/best" \
        --start_from model_archive/model_source/pretrained_stream
    stage "$out/stream_microphone" 100 train.py @recipes/stream_microphone.txt "${negatives[@]}" "${ambient[@]}" \
        --teacher "$teacher/best" --start_from "$out/stream/best"
    stage "$out/stream_int8" 100 optimisations.py @recipes/stream_quantize.txt "${negatives[@]}" "${ambient[@]}" \
        --checkpoint "$out/stream_microphone/best" --teacher "$teacher/best"
fi

# ---- convert and evaluate ----

files=()
convert() {  # convert CHECKPOINT NAME TYPE [FLAGS]: to NAME_TYPE.tflite, TYPE being fp32, int8 or int16
    local file=$out/$2_$3.tflite form=(--inference_type "$3")
    if [ "$3" = fp32 ]; then form=(--no-quantize); fi
    # the table at the end has the accuracies
    python convert_to_tflite.py "${data[@]}" --checkpoint "$1" "${form[@]}" "${@:4}" --output "$file" |
        grep -v ': testing, '
    files+=("$file")
}

for type in fp32 int8; do
    convert "$checkpoint" "$model" "$type" "${network[@]}"
    if [ -n "$clustered" ]; then convert "$clustered/best" "${model}_clustered" "$type"; fi
    convert "$out/entropy/best" "${model}_entropy" "$type"
    if [ -n "$negatives_dir" ]; then
        convert "$out/microphone_int8/best" "${model}_microphone" "$type"
        convert "$out/verifier_3/best" ds_cnn_small "$type"
        convert "$out/stream_int8/best" stream_cnn_small "$type"
    fi
done
if [ "$architecture" = dnn ]; then
    convert "$out/cqat_16/best" "${model}_clustered_16" int8
    convert "$checkpoint" "$model" int16 "${network[@]}"
fi

if [ -n "$ambient_dir" ]; then
    minutes=60
    if $sample; then minutes=1; fi
    for type in fp32 int8; do
        microphone=$out/${model}_microphone_$type verifier=$out/ds_cnn_small_$type stream=$out/stream_cnn_small_$type
        measure=(evaluation.py "${data[@]}" --ambient "$ambient_dir" --stream_minutes "$minutes" --write_detector)
        echo "== choose thresholds of $microphone.tflite, alone and with its verifier, and of $stream.tflite"
        python "${measure[@]}" "$microphone.tflite" --json "$microphone.json"
        python "${measure[@]}" "$microphone.tflite" --json "$verifier.json" --verifier "$verifier.tflite"
        python "${measure[@]}" "$stream.tflite" --json "$stream.json"
    done
fi

if $train; then files+=(--checkpoint "$checkpoint"); fi
echo "== evaluate: $out/accuracy.txt has confusion matrices, $out/accuracy.json the same figures"
python evaluation.py "${data[@]}" "${test_set[@]}" --json "$out/accuracy.json" --tflite_path "${files[@]}" \
    > "$out/accuracy.txt"
python model_archive/compare.py "$out/accuracy.json"
echo "took $(((SECONDS + 59) / 60)) minutes"
if $sample; then
    echo "The figures here are of synthetic voices: the chain works. How good the models are on people is in README.md."
fi
exit
}
