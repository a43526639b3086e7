"""A trained model that learns on: more words, and what it wrongly detected by the README's commands."""

import re
import shlex
import shutil

import numpy as np
import soundfile

import models
from conftest import (
    DATA,
    RATE,
    ROOT,
    SAMPLE_DATA,
    SHIPPED_INT8,
    WEIGHTS,
    assert_one_clear_line,
    call,
    call_here,
    train_here,
)
from kws.detect import streaming
from kws.model import checkpoints


def test_more_words_are_learnt_in_fewer_steps_from_a_checkpoint(tmp_path):
    def accuracy_after(name, *flags):
        few = (
            "--how_many_training_steps 20 --learning_rate 0.0005 --wanted_words yes,no,up,bird,happy".split()
        )
        output = train_here(tmp_path / name, *few, *flags).stdout
        return float(re.search(r"validation accuracy ([\d.]+) %", output)[1])

    assert accuracy_after("from", "--start_from", WEIGHTS) > accuracy_after("random") + 10


def test_own_words_are_learnt_in_few_steps_from_a_convolutional_network_in_clips_of_any_length(tmp_path):
    verifier = ROOT / "model_archive/model_source/verifier"
    few = (
        "--model ds_cnn_small --how_many_training_steps 15 --eval_step_interval 15 --learning_rate 0.001 "
        "--clip_duration_ms 1200"
    ).split()
    for name, word in {"lights": "yes", "pumpkins": "up", "no": "no", "bird": "bird", "tree": "tree"}.items():
        (tmp_path / "words" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "words" / name).symlink_to(SAMPLE_DATA / word)
    data = "--data_dir", tmp_path / "words", "--wanted_words", "lights,pumpkins,no"

    def train(name, *start):
        output = call_here("train.py", *data, *few, *start, "--train_dir", tmp_path / name).stdout
        return output, float(re.search(r"validation accuracy ([\d.]+) %", output)[1])

    output, accuracy = train("from", "--start_from", verifier)
    assert "kept for _silence_, _unknown_, no; new, at random, for lights, pumpkins; dropped for" in output
    assert checkpoints.read_settings(tmp_path / "from/best").clip_duration_ms == 1200
    _, of_random_weights = train("random")
    assert accuracy > of_random_weights + 10


def test_a_fully_connected_network_is_of_one_length_of_clips(tmp_path):
    flags = "--start_from", WEIGHTS, "--clip_duration_ms", "1200"
    result = train_here(tmp_path, *flags, check=False)
    assert_one_clear_line(result, "--clip_duration_ms 1000", "1200 contradicts")


def dishwasher(seed, seconds=60):
    """Return a hum, and creaks that sound like words: pulses through two resonances. int16 [samples]"""
    rng = np.random.default_rng(seed)
    audio = 30 * rng.normal(size=seconds * RATE)
    audio += 200 * np.sin(2 * np.pi * 100 * np.arange(len(audio)) / RATE)
    for start in np.arange(0.5, seconds - 1.2, 1.6):
        creak = np.zeros(int(RATE * rng.uniform(0.3, 0.6)))
        creak[:: int(RATE / rng.uniform(90, 200))] = 1
        time = np.arange(1, 800) / RATE
        resonances = rng.uniform(300, 800), rng.uniform(900, 2500)
        response = sum(
            np.sin(2 * np.pi * hertz * time) / np.sin(2 * np.pi * hertz / RATE) for hertz in resonances
        )
        response *= np.exp(-np.pi * 100 * time)
        creak = np.convolve(creak, response)[: len(creak)] * np.hanning(len(creak))
        audio[int(start * RATE) :][: len(creak)] += 8000 * creak / np.abs(creak).max()
    return audio.astype(np.int16)


def commands_for_the_dishwasher():
    """Read the commands of docs/help.md for what fires wrongly: [(script, arguments)]."""
    text = (ROOT / "docs" / "help.md").read_text().split("when my dishwasher runs:", 1)[1].split("\n\n")[1]
    lines = text.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines]
    assert len(text.splitlines()) <= 5 and all(command[0] == "python" for command in commands)
    return [(script, arguments) for _, script, *arguments in commands]


def test_the_readmes_commands_teach_a_model_not_to_fire_when_the_dishwasher_runs(tmp_path, test_set):
    shutil.copytree(WEIGHTS, tmp_path / "work" / "my_words" / "best")
    shutil.copy(SHIPPED_INT8, tmp_path / "work" / "my_words.tflite")
    soundfile.write(tmp_path / "dishwasher.wav", dishwasher(0), RATE)
    here = {"my_words": SAMPLE_DATA, "@recipes/fine_tune.txt": f"@{ROOT}/recipes/fine_tune.txt"}
    brief = {
        "train.py": "--how_many_training_steps 200 --eval_step_interval 200".split(),
    }

    def run(script, arguments):
        made = [
            tmp_path / word if re.match(r"work/|wrong|dishwasher", word) else here.get(word, word)
            for word in arguments
        ]
        function = call if script == "label_wav.py" else call_here
        return function(script, *made, *brief.get(script, ())).stdout

    outputs = [run(script, arguments) for script, arguments in commands_for_the_dishwasher()]
    before, after = (output.splitlines() for output in (outputs[0], outputs[-1]))
    assert len(before) >= 4 and not [line for line in before if "nothing detected" in line]
    assert len(list((tmp_path / "wrong").rglob("*.wav"))) == len(before)
    assert len(after) == 1 and "nothing detected" in after[0]
    old, new = (models.load(tmp_path / "work" / name) for name in ("my_words.tflite", "quieter.tflite"))
    soundfile.write(tmp_path / "another day.wav", dishwasher(1), RATE)
    alarms = [len(list(streaming.detect(tmp_path / "another day.wav", model))) for model in (old, new)]
    assert alarms[0] >= 3 and alarms[1] <= alarms[0] / 3
    features, labels = test_set
    start = models.load(tmp_path / "work" / "my_words" / "best")
    accuracies = [(model.predict(features).argmax(1) == labels).mean() for model in (start, new)]
    assert accuracies[1] > accuracies[0] - 0.05  # words are still words


def test_own_words_keep_the_trunk_and_learn_what_comes_behind_it(tmp_path):
    for name, word in {"lights": "yes", "coffee": "up", "bird": "bird", "tree": "tree"}.items():
        (tmp_path / "words" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "words" / name).symlink_to(SAMPLE_DATA / word)
    few = "--how_many_training_steps 60 --eval_step_interval 60 --echo_factor 2 --wanted_words lights,coffee"
    recipe, data = f"@{ROOT}/recipes/own_words.txt", ("--data_dir", tmp_path / "words")
    output = call_here("train.py", recipe, *data, *few.split(), "--train_dir", tmp_path / "x").stdout
    assert output.count(": kept") == 22 and output.count(": new, at random") == 7
    assert float(re.search(r"validation accuracy ([\d.]+) %", output)[1]) > 70

    detector = checkpoints.read_settings(tmp_path / "x/best").detector
    assert detector.smoothing_ms == 240 and detector.low.threshold >= detector.normal.threshold
    assert f"--sensitivity normal: threshold {detector.normal.threshold:g}" in output
    assert output.count("  not from ") == 1 and "not from orders_en, in which a word is often said" in output
    trunk = checkpoints.read_weights(ROOT / "model_archive/model_source/pretrained_stream")[:22]
    for before, after in zip(trunk, checkpoints.read_weights(tmp_path / "x/best")[:22], strict=True):
        assert all((before[name] == after[name]).all() for name in before)


def test_what_is_frozen_needs_a_start(tmp_path):
    result = train_here(tmp_path, "--freeze_start", check=False)
    assert_one_clear_line(result, "--freeze_start", "--start_from")
    result = train_here(tmp_path, "--start_from", WEIGHTS, "--trunk_negatives", "x.npz", check=False)
    assert_one_clear_line(result, "--trunk_negatives", "--freeze_start")


def test_stored_negatives_need_a_trunk_that_goes_on_and_clips_that_fit(tmp_path):
    recipe = f"@{ROOT}/recipes/own_words.txt"
    finished = call_here(
        "train.py", *DATA, "--start_from", ROOT / "model_archive/model_source/stream", "--freeze_start",
        "--trunk_negatives", "x.npz", "--train_dir", tmp_path / "same", check=False,
    )  # fmt: skip
    assert_one_clear_line(finished, "--trunk_negatives", "model_source/stream", "pretrained_stream")
    long = call_here(
        "train.py", recipe, *DATA, "--wanted_words", "yes", "--clip_duration_ms", "2600", "--train_dir",
        tmp_path / "long", check=False,
    )  # fmt: skip
    assert_one_clear_line(long, "--clip_duration_ms 2600", "negatives.npz")


def test_a_new_head_on_a_trunk_has_no_teacher_and_nothing_to_blend(tmp_path):
    command = "train.py", f"@{ROOT}/recipes/own_words.txt", *DATA, "--wanted_words", "yes"
    for flags in (("--teacher", WEIGHTS), ("--blend_start", "30")):
        result = call_here(*command, *flags, "--train_dir", tmp_path / "x", check=False)
        assert_one_clear_line(result, "--freeze_start", "--teacher", "--blend_start")
