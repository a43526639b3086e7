"""Convolutions over time: C and PC compute a stream frame by frame, and get what whole windows give."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from test_c_streams import assert_same_detections, by_the_pc, detections, printed, shown

import convert_to_tflite
import models
import networks
from c_modules import assert_same_scores, converted, module_and_model, needs
from conftest import RATE, SHIPPED_INT8, made_once
from kws.base.features import mfcc
from kws.base.quiet_tf import keras
from kws.base.settings import DetectorSettings, Sensitivity, Settings
from kws.board.c_folder import write_c_folder
from kws.detect import streaming
from kws.model import checkpoints
from kws.model.tflite import TFLiteModel, embed_settings, quantize

LOG_MEL = Settings(
    window_size_ms=40,
    window_stride_ms=20,
    dct_coefficient_count=0,
    model_architecture="stream_cnn",
    model_size_info=(3, 16, 5, 8, 2, 4, 24, 9, 9, 1, 1, 24, 5, 1, 1, 1),
)
# every 80 ms; numbers of channels that fit no vector instruction
SLOW = replace(LOG_MEL, model_size_info=(3, 9, 5, 8, 2, 4, 7, 4, 3, 2, 2, 10, 3, 4, 1, 1))


def hop_of(settings, hop_ms, threshold=0.5, gate=None):
    """Settings whose detector has windows of this hop."""
    sensitivities = 3 * [Sensitivity(threshold, 1.0, 0.5)]
    return replace(settings, detector=DetectorSettings(hop_ms, 400, 600, *sensitivities, gate))


def ending_in_a_mean(settings):
    """A network with the mean over time in place of the last convolution, and pooling before."""
    layers = keras.layers
    features = keras.Input((settings.feature_count,), name="input")
    x = layers.Reshape((settings.frame_count, 1, settings.front_end.frame_features))(features)
    x = layers.Conv2D(12, (6, 1), (2, 1), activation="relu")(x)
    x = layers.Conv2D(11, (5, 1), activation="relu")(x)
    x = layers.AveragePooling2D((x.shape[1], 1))(x)
    scores = layers.Dense(len(settings.labels), activation="softmax")(layers.Flatten()(x))
    return keras.Model(features, scores)


def words_in_noise(sample, copies=2, pauses=100):
    """Words of the sample data in noise, and noise alone: int16 [clips, samples], and their labels."""
    rng = np.random.default_rng(0)
    chosen = range(0, len(sample.training), 6)
    words = [sample.training.samples(number) for number in chosen]
    clips = []
    for clip in words * copies + [np.zeros(RATE, np.int16)] * pauses:
        noise = sample.noise[rng.integers(len(sample.noise))]
        begin = rng.integers(len(noise) - RATE)
        clip = np.roll(clip, rng.integers(-RATE // 10, RATE // 10))
        clips.append(clip + 3000 * rng.random() * noise[begin : begin + RATE])
    labels = [*sample.training.label[chosen]] * copies + [0] * pauses
    return np.clip(clips, -32768, 32767).astype(np.int16), np.array(labels)


@pytest.fixture(scope="module")
def trained_file(sample, tmp_path_factory):
    """A TFLite file of convolutions over time that were shown the sample data."""

    def make(folder):
        clips, labels = words_in_noise(sample)
        given = mfcc(clips, LOG_MEL.front_end)
        keras.utils.set_random_seed(0)
        network = models.build_model(LOG_MEL)
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.8
        network.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
        network.fit(given, labels, epochs=8, verbose=0)
        content = convert_to_tflite.convert(network, LOG_MEL, given, "int8")
        (folder / "x.tflite").write_bytes(embed_settings(content, hop_of(LOG_MEL, 40, 0.4)))

    return made_once(tmp_path_factory, "stream_cnn", make) / "x.tflite"


@pytest.fixture(scope="module")
def exported_module(trained_file, tmp_path_factory, c_tools):
    return module_and_model(trained_file, tmp_path_factory.mktemp("stream_cnn_c") / "c")


def noise_with_pauses(seconds, seed=0):
    """Noise from quiet to loud with digital silence between, int16 [samples]."""
    rng = np.random.default_rng(seed)
    parts = []
    for level in rng.uniform(0, 9000, 4 * seconds):
        parts.append(rng.normal(scale=level, size=RATE // 4) * (rng.uniform() > 0.2))
    return np.concatenate(parts).clip(-32768, 32767).astype(np.int16)


# ---- on the PC ----


@pytest.mark.parametrize(
    ("settings", "build", "between"),
    [(LOG_MEL, models.build_model, 2), (SLOW, models.build_model, 4), (LOG_MEL, ending_in_a_mean, 2)],
)
def test_a_stretch_gives_the_scores_of_its_windows(tmp_path, settings, build, between):
    model = TFLiteModel(converted(settings, tmp_path, build=build))
    assert model.frames_between == between
    rng = np.random.default_rng(0)
    frames = rng.normal(scale=5, size=(300, 40)).astype(np.float32)
    windows = sliding_window_view(frames, settings.frame_count, axis=0)[::between]
    windows = np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(-1, settings.feature_count)
    alone = np.concatenate([model.predict(one[None]) for one in windows])
    np.testing.assert_array_equal(model.predict_stretch(frames), alone)
    np.testing.assert_array_equal(model.predict(windows), alone)  # a batch does not mix them
    np.testing.assert_array_equal(model.predict_stretch(frames[: settings.frame_count]), alone[:1])
    assert len(np.unique(alone, axis=0)) > 10


@pytest.mark.parametrize(
    ("settings", "hop_ms", "as_a_stretch"),
    [
        (LOG_MEL, 40, True),
        (LOG_MEL, 120, True),
        (LOG_MEL, 60, False),
        (LOG_MEL, 50, False),
        (SLOW, 40, False),
    ],
)
def test_windows_of_a_recording_have_the_scores_that_each_has_alone(
    tmp_path, monkeypatch, settings, hop_ms, as_a_stretch
):
    model, calls = TFLiteModel(converted(settings, tmp_path)), []
    monkeypatch.setattr(model, "predict_stretch", lambda frames: calls.append(len(frames)) or stretch(frames))
    stretch = TFLiteModel.predict_stretch.__get__(model)
    samples, hop = noise_with_pauses(6), hop_ms * RATE // 1000
    windows = np.ascontiguousarray(sliding_window_view(samples, RATE)[::hop])
    expected = np.concatenate([model.predict(mfcc(one[None], settings.front_end)) for one in windows])
    for length in (RATE // 3, 2 * RATE, len(samples)):
        blocks = [samples[start : start + length] for start in range(0, len(samples), length)]
        found = np.concatenate([*streaming.window_scores(blocks, model, hop)])
        steps = np.rint(np.abs(found - expected) / model.output["quantization"][0])
        assert steps.max() <= 2 and (steps > 0).mean() < 0.01  # features in other batches, by their last bits
    assert bool(calls) == as_a_stretch


@pytest.mark.parametrize("architecture", ["dnn", "cnn", "ds_cnn", "tc_resnet", "crnn"])
def test_other_networks_have_no_stretches(architecture, tmp_path):
    settings = networks.tiny(architecture)
    model = TFLiteModel(converted(settings, tmp_path))
    assert model.frames_between is None


def test_a_checkpoint_has_windows(trained):
    assert not hasattr(checkpoints.load(trained / "best", models.build_model), "frames_between")


# ---- in C ----


def test_log_mel_energies_are_those_of_the_pc(exported_module, sample):
    module, model = exported_module
    clips = np.stack([sample.testing.samples(number) for number in range(len(sample.testing))])
    clips = np.concatenate([clips, noise_with_pauses(40).reshape(-1, RATE), np.zeros((1, RATE), np.int16)])
    expected = mfcc(clips, LOG_MEL.front_end)
    frames = sliding_window_view(clips, 640, axis=1)[:, ::320].reshape(-1, 640)
    found = np.stack([module.call("kws_mfcc", frame, 40, np.float32) for frame in frames])
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-3)
    given = np.stack([module.call("kws_features", clip, LOG_MEL.feature_count, np.int8) for clip in clips])
    steps = np.abs(given.astype(int) - quantize(expected, model.input))
    assert steps.max() <= 1 and (steps > 0).mean() < 0.001


def test_whole_clips_have_the_scores_of_the_interpreter(exported_module):
    assert_same_scores(exported_module[0], TFLiteModel(exported_module[1].path), 500)


CASES = {
    "40 of 20 ms": (LOG_MEL, 40, models.build_model),
    "each 80 ms": (SLOW, 80, models.build_model),
    "every other output": (LOG_MEL, 80, models.build_model),
    "a mean at the end": (LOG_MEL, 40, ending_in_a_mean),
    "60 of 20 ms": (replace(LOG_MEL, window_size_ms=60), 40, models.build_model),
    "20 of 25 ms": (replace(LOG_MEL, window_size_ms=20, window_stride_ms=25), 50, models.build_model),
    "MFCCs": (
        replace(LOG_MEL, dct_coefficient_count=13, model_size_info=(2, 12, 5, 4, 2, 3, 16, 9, 4, 1, 1)),
        40,
        models.build_model,
    ),
    "hop of 60 ms": (LOG_MEL, 60, models.build_model),
    "padded": (
        replace(LOG_MEL, model_architecture="ds_cnn", model_size_info=(2, 6, 4, 4, 2, 2, 6, 3, 3, 1, 1)),
        40,
        models.build_model,
    ),
}


@pytest.mark.usefixtures("c_tools")
@pytest.mark.parametrize("case", CASES)
def test_a_stream_has_the_scores_of_whole_windows(tmp_path, case):
    """The same bits from the first window on, as C and LiteRT compute them from the same features."""
    settings, hop_ms, build = CASES[case]
    settings = hop_of(settings, hop_ms)
    module, model = module_and_model(converted(settings, tmp_path, build=build), tmp_path / "c")
    header = (tmp_path / "c" / "kws_model.h").read_text()
    assert ("#define KWS_STREAMING 0\n" in header) == (case in ("hop of 60 ms", "padded"))
    front_end = settings.front_end
    stride, samples = front_end.stride_samples, noise_with_pauses(8)
    clip, hop = -(-RATE // stride), hop_ms * RATE // 1000 // stride
    pushes = range(clip, len(samples) // stride + 1, hop)
    found = module.stream_scores(samples, settings, pushes)
    # frames of the latest window end with the latest stride, or begin with it if they are shorter
    last = [min(0, stride - front_end.window_samples) + (end - 1) * stride for end in pushes]
    begins = [begin - (settings.frame_count - 1) * stride for begin in last]
    assert begins[0] == 0
    given = [
        module.call("kws_features", samples[begin:], settings.feature_count, np.int8) for begin in begins
    ]
    whole = np.stack([module.call("kws_classify", one, 12, np.int8) for one in given])
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(found, np.concatenate([model.run(one[None]) for one in given]))
    assert len(found) > 50 and len(np.unique(found, axis=0)) > 10


def test_a_stream_starts_with_scores_of_silence(exported_module):
    module, model = exported_module
    quiet = module.call("kws_features", np.zeros(RATE, np.int16), LOG_MEL.feature_count, np.int8)
    silent = module.call("kws_classify", quiet, 12, np.int8)
    found = module.stream_scores(np.zeros(RATE, np.int16), model.settings, [1, 2, 20])
    np.testing.assert_array_equal(found, [silent] * 3)


def test_detections_in_a_stream_are_those_of_the_pc(exported_module, half_hour):
    module, model = exported_module
    expected = by_the_pc(half_hour.samples, model, None)
    assert len(expected) > 100 and len({word for _, word, _ in expected}) > 7
    assert_same_detections(detections(module.folder, half_hour.samples), expected)


def test_sanitizers_find_nothing_in_a_stream(trained_file, tmp_path, half_hour):
    write_c_folder(trained_file, tmp_path / "c")
    sanitized = "CFLAGS=-fsanitize=address,undefined -fno-sanitize-recover"
    result = subprocess.run(["make", "-C", tmp_path / "c", sanitized], capture_output=True, text=True)
    assert result.returncode == 0 and "4 of 4 clips as on the PC" in result.stdout, result.stderr
    assert len(printed(tmp_path / "c", half_hour.samples[: 60 * RATE])) > 2


@needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("flags", ["", "-DKWS_PLAIN_C"])
@pytest.mark.parametrize("settings", [LOG_MEL, hop_of(SLOW, 80)], ids=["each 40 ms", "each 80 ms"])
def test_microcontrollers_have_the_scores_of_the_pc_in_clips_and_streams(tmp_path, settings, flags):
    """main.c compares the stream of each clip with the clip as a whole."""
    write_c_folder(converted(settings, tmp_path), tmp_path / "c")
    command = ["make", "-C", tmp_path / "c", "qemu", "count", f"CFLAGS={flags}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("4 of 4 clips as on the PC") == 2
    assert result.stdout.count("of them for the network") == 2


def test_a_module_notices_that_its_stream_differs(trained_file, tmp_path, c_tools):
    write_c_folder(trained_file, tmp_path / "c")
    sizes = (tmp_path / "c" / "kws_model.h").read_text()
    assert "#define KWS_SILENCE 49\n" in sizes
    # one frame out of step
    (tmp_path / "c" / "kws_model.h").write_text(sizes.replace("SILENCE 49", "SILENCE 50"))
    result = subprocess.run(["make", "-C", tmp_path / "c"], capture_output=True, text=True)
    assert result.returncode != 0 and "streaming differs" in result.stdout


def test_log_mel_energies_leave_out_the_tables_for_cmsis_dsp(exported_module, shipped):
    assert not (exported_module[0].folder / "kws_cmsis_dsp.h").exists()
    assert (shipped[0].folder / "kws_cmsis_dsp.h").exists()


# ---- with a verifier ----


def with_gate(path, folder):
    """The same verifier, tuned so that it is asked often and confirms about half."""
    model = TFLiteModel(path)
    folder.mkdir()
    (folder / "x.tflite").write_bytes(embed_settings(model.content, hop_of(model.settings, 40, 0.1, 0.3)))
    return TFLiteModel(folder / "x.tflite")


def test_log_mel_energies_verify_what_mfccs_detect(trained_file, shipped, tmp_path, half_hour):
    verifier, samples = with_gate(trained_file, tmp_path / "v"), half_hour.samples[: 300 * RATE]
    write_c_folder(SHIPPED_INT8, tmp_path / "c", verifier_path=verifier.path)
    expected = by_the_pc(samples, shipped[1], verifier)
    assert len(expected) > 5
    assert_same_detections(detections(tmp_path / "c", samples), expected)


@pytest.mark.parametrize("coefficients", [10, 12])
def test_mfccs_verify_what_a_stream_of_log_mel_energies_detects(
    trained_file, sample, tmp_path, half_hour, coefficients
):
    settings = Settings(
        window_size_ms=40, window_stride_ms=40, dct_coefficient_count=coefficients, model_size_info=(24,)
    )
    verifier = with_gate(shown(sample, settings, tmp_path / "y.tflite"), tmp_path / "v")
    write_c_folder(trained_file, tmp_path / "c", verifier_path=verifier.path)
    samples = half_hour.samples[: 300 * RATE]
    expected = by_the_pc(samples, TFLiteModel(trained_file), verifier)
    assert len(expected) > 5
    assert_same_detections(detections(tmp_path / "c", samples), expected)
