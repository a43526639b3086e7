#!/usr/bin/env bash
# shellcheck disable=SC2046  # $(short N) stands for several flags
# Recreate a model: (train,) cluster, convert the plain and the clustered models to fp32 and int8, evaluate them.
# Clusters are made twice: by tensorflow-model-optimization, and with few bits after entropy coding.
# The recipes are in recipes/: what each flag is for, and how to use them on your own words.
set -euo pipefail

usage="usage: bash recreate_model.sh [--model NAME] [--train [--negatives_dir DIR [--ambient DIR]]]
                              [--ckpt PATH] [--data_dir DIR]

  --model NAME    a network of the paper, such as ds_cnn_small; dnn_small if not given, the only one that is shipped
  --train         train a teacher and then a new model first, instead of starting from the shipped weights
  --negatives_dir DIR
                  recordings without the words, for one more model, for an open microphone
  --ambient DIR   others of them, on which that model and its thresholds are chosen
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
train=false checkpoint='' data_dir='' negatives_dir='' ambient_dir='' network=()
while [ $# -gt 0 ]; do
    case $1 in
        --train) train=true ;;
        --model | --ckpt | --data_dir | --negatives_dir | --ambient)
            [ -n "${2-}" ] || fail "$1 needs a value"
            case $1 in
                --model) network=(--model "$2") ;;
                --ckpt) checkpoint=$(absolute "$2") ;;
                --data_dir) data_dir=$(absolute "$2") ;;
                --negatives_dir) negatives_dir=$(absolute "$2") ;;
                --ambient) ambient_dir=$(absolute "$2") ;;
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
if [ -n "$negatives_dir" ] && ! $train; then
    fail "--negatives_dir is for training: it needs --train"
fi
if [ -n "$ambient_dir" ] && [ -z "$negatives_dir" ]; then
    fail "--ambient is for the model for an open microphone: it needs --negatives_dir"
fi
for dir in "$negatives_dir" "$ambient_dir"; do  # which are read an hour later
    if [ -n "$dir" ] && [ ! -d "$dir" ]; then fail "$dir is not a folder"; fi
done
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./environment.sh
name=$(python models.py ${checkpoint:+"$checkpoint"} --architecture ${network[@]+"${network[@]}"} 2>&1 |
    tail -n 1) || fail "${name#*error: }"
model=${network[1]-dnn_small}
if [ -n "$negatives_dir" ] && [ "$name" != dnn ]; then
    fail "--negatives_dir is for dnn models: for $model see recipes/microphone.txt"
fi
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
    python -c 'import pathlib, sys, kws.audio.folders; sys.exit(not kws.audio.folders.word_folders(pathlib.Path(sys.argv[1])))' "$1"
}

can_download() {
    python -c 'import urllib.request, kws.data.download; urllib.request.urlopen(kws.data.download.DATA_URL, timeout=20)' 2>/dev/null
}

sample=false
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
    sample=true
    out=work/recreated/sample_data
    data=(--data_dir sample_data --data_url '')
    test_set=()
    echo "$warning"
fi
teacher=$out/teacher
negatives=() ambient=()
if [ -n "$negatives_dir" ]; then
    out=$out/with_negatives
    negatives=(--negatives_dir "$negatives_dir")
    if [ -n "$ambient_dir" ]; then ambient=(--ambient "$ambient_dir"); fi
fi
if [ -n "$checkpoint" ]; then
    out=$out/from_$(basename "$checkpoint")-$(cksum <<< "$checkpoint" | cut -d ' ' -f 1)
elif [ "$model" != dnn_small ]; then
    out=$out/$model
fi
if $train; then out=$out/trained; else rm -rf "$out/clustered" "$out/cqat" "$out/entropy"; fi
checkpoint=${checkpoint:-model_archive/model_source/weights}
mkdir -p "$out"

short() {  # short STEPS: flags that shorten a recipe where the figures say nothing anyway
    if $sample; then echo --how_many_training_steps "$1" --eval_step_interval 50; fi
}

delete_outdated() {  # delete_outdated STAGE...: those whose earlier stage was deleted, and will be retrained
    local earlier='' stage
    for stage in "$@"; do
        if [ -n "$earlier" ] && [ ! -d "$earlier/resume" ]; then rm -rf "$stage"; fi
        earlier=$stage
    done
}

if ! $sample; then
    echo "this takes some ten minutes on two cores, and with --train an hour or more, which resumes where it was interrupted"
fi
python input_data.py "${data[@]}" ${test_set[@]+"${test_set[@]}"}

# The flags in recipes/ come first, so that those after them override theirs.
if $train; then
    case $name in
        dnn) before=(delete_outdated "$teacher" "$out/train" "$out/quantized") ;; # and what follows from both
        *) before=(delete_outdated "$teacher" "$out/train") ;;
    esac
    "${before[@]}" "$out/clustered" "$out/cqat"
    "${before[@]}" "$out/entropy"
    "${before[@]}" "$out/microphone" "$out/microphone_int8"
    echo "== train the teacher"
    python train.py @recipes/teacher.txt $(short 100) "${data[@]}" --train_dir "$teacher"
    echo "== train"
    if [ "$name" = dnn ]; then
        python train.py @recipes/dnn_small.txt $(short 800) "${data[@]}" --model "$model" \
            --teacher "$teacher/best" --train_dir "$out/train"
        echo "== quantize the weights"
        python optimisations.py @recipes/quantize.txt $(short 300) "${data[@]}" \
            --checkpoint "$out/train/best" --teacher "$out/train/best" --train_dir "$out/quantized"
        checkpoint=$out/quantized/best
        if [ -n "$negatives_dir" ]; then
            echo "== train for an open microphone"
            python train.py @recipes/microphone.txt $(short 100) "${data[@]}" "${negatives[@]}" \
                ${ambient[@]+"${ambient[@]}"} --model "$model" \
                --start_from "$checkpoint" --teacher "$teacher/best" --train_dir "$out/microphone"
            python optimisations.py @recipes/quantize.txt $(short 100) "${data[@]}" "${negatives[@]}" \
                ${ambient[@]+"${ambient[@]}"} --negatives_percentage 20 --hard_negatives_percentage 25 \
                --prior_correction \
                --checkpoint "$out/microphone/best" --teacher "$out/microphone/best" --train_dir "$out/microphone_int8"
        fi
    else
        python train.py @recipes/deep.txt $(short 200) "${data[@]}" --model "$model" \
            --teacher "$teacher/best" --train_dir "$out/train"
        checkpoint=$out/train/best
    fi
fi

cluster() {  # cluster METHOD CHECKPOINT FOLDER [FLAGS]: by that method of optimisations.py, taught by $checkpoint
    echo "== cluster $2: $1"
    if [ "$name" = dnn ]; then
        python optimisations.py @recipes/cluster.txt "${@:4}" $(short 300) "${data[@]}" ${network[@]+"${network[@]}"} \
            --method "$1" --checkpoint "$2" --teacher "$checkpoint" --train_dir "$3"
    else
        python optimisations.py @recipes/deep_cluster.txt "${@:4}" $(short 100) "${data[@]}" \
            ${network[@]+"${network[@]}"} --method "$1" --checkpoint "$2" --teacher "$checkpoint" --train_dir "$3"
    fi
}

best_of() {  # best_of FOLDER...: of these trainings the one that validates best, by the name of its best checkpoint
    local folder name
    for folder in "$@"; do
        for name in "$folder"/best/*.index; do
            name=${name##*/} name=${name%.ckpt-*}
            echo "${name##*_} $folder"
        done
    done | sort -s -k 1,1nr | sed -n '1s/^[0-9]* //p'
}

files=()
convert() {  # convert CHECKPOINT NAME: to NAME.tflite, float, and NAME_quantized.tflite, int8
    echo "== convert $1"
    python convert_to_tflite.py "${data[@]}" ${network[@]+"${network[@]}"} --checkpoint "$1" \
        --no-quantize --output "$out/$2.tflite"
    python convert_to_tflite.py "${data[@]}" ${network[@]+"${network[@]}"} --checkpoint "$1" \
        --inference_type int8 --output "$out/$2_quantized.tflite"
    files+=("$out/$2.tflite" "$out/$2_quantized.tflite")
}
convert "$checkpoint" "$name"
if [ -n "$negatives_dir" ]; then convert "$out/microphone_int8/best" "${name}_microphone"; fi
case $name in
    lstm) echo "== tensorflow-model-optimization cannot cluster lstm's projected cells: by entropy only" ;;
    dnn | cnn | ds_cnn)  # whose clusters quantization-aware training then fits to int8, in as many steps or half
        cluster clustering "$checkpoint" "$out/clustered"
        if [ "$name" = dnn ]; then
            # of three seeds the best, as their accuracies differ by some tenths of a point, and as much between processors
            for seed in 0 1 2; do
                cluster cqat "$out/clustered/best" "$out/cqat/$seed" --how_many_training_steps 4000 --seed "$seed"
            done
        else
            cluster cqat "$out/clustered/best" "$out/cqat/0"
        fi
        best=$(best_of "$out"/cqat/*)
        echo "== of $out/cqat the best on validation clips: ${best##*/}"
        convert "$best/best" "${name}_clustered" ;;
    *)
        cluster clustering "$checkpoint" "$out/clustered"
        convert "$out/clustered/best" "${name}_clustered" ;;
esac
cluster entropy "$checkpoint" "$out/entropy"
convert "$out/entropy/best" "${name}_entropy"

echo "== evaluate"
python evaluation.py "${data[@]}" ${test_set[@]+"${test_set[@]}"} --tflite_path "${files[@]}"
if [ -n "$ambient_dir" ]; then
    echo "== choose thresholds, and write them into $out/${name}_microphone_quantized.tflite"
    python evaluation.py "${data[@]}" --tflite_path "$out/${name}_microphone_quantized.tflite" "${ambient[@]}" \
        --stream_minutes $(if $sample; then echo 1; else echo 60; fi) --write_detector
fi
if $train; then
    echo
    echo "new checkpoint: $checkpoint"
    echo "to convert it:  python convert_to_tflite.py --checkpoint $checkpoint --inference_type int8 --data_dir ${data[1]}"
fi
echo "took $(((SECONDS + 59) / 60)) minutes"
if $sample; then echo "$warning"; fi
exit
}
