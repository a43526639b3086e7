r"""Compare a model that learnt a word from text with other wake-word engines: misses, false alarms and cost.

    python benchmarks/wake_words.py MODEL.tflite --phrase DIR --ambient DIR \
        --engines microwakeword:hey_jarvis openwakeword:hey_jarvis

MODEL is an int8 file that knows the word that the folder of --phrase is named after. An engine is followed
by the name of a model in its package (`python -m pip install -r benchmarks/requirements.txt`). All hear the
same: each recording of the phrase between two pauses of faint noise, and --ambient. The phrase is missed if
its score, smoothed as the engine itself does, stays below the threshold in all of a recording. openWakeWord's
models are under CC BY-NC-SA 4.0: they are compared with, and nothing learns from them.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from kws.audio.recordings import BadAudio, read_audio
from kws.base.errors import UserError, run
from kws.base.flags import new_parser
from kws.base.settings import UNKNOWN_INDEX, Settings
from kws.base.text import folded
from kws.board.incremental import incremental, macs_of_a_second
from kws.board.layers import read_network
from kws.data.negatives import recordings_below
from kws.detect.measure import Point, operating_point, track
from kws.detect.streaming import Detector, DetectorOptions, DetectorParameters, Smoothed, detector_parameters
from kws.model.tflite import TFLiteModel, parameters_and_macs

RATE = 16000  # Hz
RATES = 5.0, 1.0, 0.5  # false alarms an hour
REFRACTORY_MS = 1000.0  # the phrase counts once in it
PAUSE_S, FAINT = 1.5, 8  # noise before and after a phrase; its standard deviation, of int16
FEATURE_S = 0.01  # from one feature of microWakeWord to the next
BLOCK = 1280  # samples that openWakeWord takes at a time
# for one block; openWakeWord's other networks have 200 times fewer, or stand in for a front end
EMBEDDING_MACS = 41_955_840


class Engine(NamedTuple):
    """A detector of one phrase."""

    bytes: int  # of its networks, the ones that phrases share among them
    macs: float  # multiply-accumulates a second, without a front end
    step_s: float  # from one score to the next
    scores: Callable[[np.ndarray], np.ndarray]  # of the phrase, from a whole recording, int16 [samples]


def main():
    parser = new_parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="an int8 TFLite file that knows the word")
    parser.add_argument("--phrase", required=True, metavar="DIR", help="recordings, each of the word once")
    parser.add_argument("--ambient", required=True, metavar="DIR", help="recordings without the word")
    parser.add_argument("--engines", nargs="*", default=[], metavar="ENGINE:NAME", help="the other engines")
    args = parser.parse_args()
    engines = {args.model: ours(args.model, Path(args.phrase).resolve().name)}
    engines |= {name: other_engine(name) for name in args.engines}

    rng, size = np.random.default_rng(0), int(PAUSE_S * RATE)
    phrases = []
    for samples in recordings(args.phrase):
        before, after = rng.normal(0, FAINT, (2, size)).round().astype(np.int16)
        phrases.append(np.concatenate([before, samples, after]))
    ambient = recordings(args.ambient)
    hours = sum(map(len, ambient)) / RATE / 3600

    rates = " / ".join(f"{rate:g}" for rate in RATES)
    print(f"{len(phrases)} recordings of the phrase, {hours:.2f} hours without it")
    print(f"{'engine':<26}{'bytes':>11}{'MAC/s':>13}  misses at {rates} false alarms an hour")
    for name, engine in engines.items():
        points = sweep(engine, phrases, ambient, hours)
        misses = " / ".join(f"{100 * operating_point(points, rate).miss_rate:.1f}" for rate in RATES)
        print(f"{Path(name).name:<26}{engine.bytes:>11,}{engine.macs:>13,.0f}  {misses} %", flush=True)


def recordings(folder) -> list[np.ndarray]:
    """Return the recordings in a folder and below it, int16 [samples] each."""
    found, path = [], None
    try:
        for path in recordings_below(Path(folder)):
            found.append(read_audio(path, RATE)[0])
    except BadAudio as error:
        raise UserError(f"{path} {error}") from None
    if not found:
        raise UserError(f"{folder} has no recordings")
    return found


def sweep(engine: Engine, phrases, ambient, hours: float) -> list[Point]:
    """Return misses and false alarms at each threshold above which one more recording is missed."""
    highest = np.array([engine.scores(one).max(initial=0) for one in phrases])
    heard, points = [], []
    for scores in map(engine.scores, ambient):
        labels, seconds = np.full(len(scores), UNKNOWN_INDEX + 1), engine.step_s * np.arange(len(scores))
        heard.append(Smoothed(labels, scores, seconds))
    for threshold in np.unique(highest):
        # a detector remembers when it last detected something, so each recording has its own
        parameters = DetectorParameters(threshold=threshold, refractory_ms=REFRACTORY_MS)
        alarms = sum(len(Detector(parameters, Settings()).detections(one)) for one in heard)
        points.append(Point(float(threshold), alarms / hours, float(np.mean(highest < threshold))))
    return points


# ---- engines ----


def ours(path, word: str) -> Engine:
    """Return the detector of a model of this project, as if it knew `word` alone."""
    model = TFLiteModel(path)
    settings, known = model.settings, [folded(one) for one in model.settings.labels]
    if folded(word) not in known or settings.sample_rate != RATE:
        raise UserError(f"{path} does not know {word}, the name of the folder of --phrase, at {RATE} Hz")
    label, parameters = known.index(folded(word)), detector_parameters(DetectorOptions(), settings)
    hop, network = parameters.hop_samples(settings), read_network(model.content, path)
    network = incremental(network, settings.frame_count, hop // settings.front_end.stride_samples)
    in_stream = network.frames_between
    macs = macs_of_a_second(network, settings) if in_stream else network.macs * RATE / hop

    def scores(samples):
        smoothed = track("", [samples], model, parameters).smoothed
        # what sounds more like something else is not detected
        return np.where(smoothed.labels == label, smoothed.scores, 0)

    return Engine(len(model.content), macs, hop / RATE, scores)


def other_engine(name: str) -> Engine:
    """Return the engine that ENGINE:NAME stands for. UserError if there is none or its package is missing."""
    kind, _, phrase = name.partition(":")
    if kind not in OTHERS:
        raise UserError(f"--engines {name}: give {' or '.join(OTHERS)} and a name, as in microwakeword:alexa")
    try:
        return OTHERS[kind](phrase)
    except ImportError as error:
        message = f"needs {error.name}: python -m pip install -r benchmarks/requirements.txt"
    except ValueError as error:
        message = error
    raise UserError(f"--engines {name}: {message}")


def microwakeword(phrase: str) -> Engine:
    """Return a detector of microWakeWord, with its sliding mean."""
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    engine = MicroWakeWord.from_builtin(Model(phrase))
    content = Path(engine.tflite_model).read_bytes()

    def scores(samples):
        engine.reset()
        features = MicroWakeWordFeatures().process_streaming(samples.tobytes())
        return np.array([engine.process_streaming_prob(one) for one in features])

    macs = parameters_and_macs(content)[1] / (engine.stride * FEATURE_S)
    return Engine(len(content), macs, FEATURE_S, scores)


def openwakeword(phrase: str) -> Engine:
    """Return a detector of openWakeWord, which does not smooth its scores."""
    import openwakeword

    if phrase not in openwakeword.models:
        raise ValueError(f"{phrase!r} is none of {', '.join(openwakeword.models)}")
    path = Path(openwakeword.models[phrase]["model_path"])
    engine = openwakeword.Model(wakeword_model_paths=[str(path)])
    heard = engine.preprocessor
    blank = heard.melspectrogram_buffer, heard.feature_buffer

    def scores(samples):
        # reset() alone keeps the audio that was heard
        engine.reset()
        heard.raw_data_buffer.clear()
        heard.melspectrogram_buffer, heard.feature_buffer = blank
        blocks = samples[: len(samples) // BLOCK * BLOCK].reshape(-1, BLOCK)
        return np.array([max(engine.predict(block).values()) for block in blocks])

    networks = [path, *map(path.with_name, ["melspectrogram.onnx", "embedding_model.onnx"])]
    size = sum(file.stat().st_size for file in networks)
    return Engine(size, EMBEDDING_MACS * RATE / BLOCK, BLOCK / RATE, scores)


OTHERS = {"microwakeword": microwakeword, "openwakeword": openwakeword}

if __name__ == "__main__":
    run(main)
