"""The plain way of training and evaluating a keyword-spotting model, as the opponent of run.py.

A `tf.data` pipeline on all cores reads each file, decodes it, shifts it, mixes in noise, and computes
features by TensorFlow's own spectrogram and MFCC ops. A TFLite interpreter is fed clip by clip.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import models
from input_data import open_data
from kws.base.features import FrontEnd
from kws.base.quiet_tf import keras, tf
from kws.base.settings import Settings
from kws.data.clips import Clips
from kws.data.dataset import DataOptions
from kws.model.tflite import TFLiteModel, quantize


def mfcc(samples, front_end: FrontEnd):
    """Return MFCCs [feature_count] of one clip [clip_samples], by TensorFlow's ops."""
    spectrogram = tf.raw_ops.AudioSpectrogram(
        input=samples[:, None],
        window_size=front_end.window_samples,
        stride=front_end.stride_samples,
        magnitude_squared=True,
    )
    coefficients = tf.raw_ops.Mfcc(
        spectrogram=spectrogram,
        sample_rate=front_end.sample_rate,
        upper_frequency_limit=4000,
        lower_frequency_limit=20,
        filterbank_channel_count=40,
        dct_coefficient_count=front_end.dct_coefficient_count,
    )
    return tf.reshape(coefficients, [-1])


def read(path, settings: Settings):
    """Return the samples [clip_samples] of a WAV file."""
    audio, _ = tf.audio.decode_wav(tf.io.read_file(path), 1, settings.clip_samples)
    return audio[:, 0]


def training_data(paths, labels, noise, settings: Settings, batch_size=100):
    """Return an endless tf.data pipeline of augmented (features [batch, feature_count], labels [batch])."""
    length, shift = settings.clip_samples, settings.sample_rate // 10
    recordings = tf.RaggedTensor.from_row_lengths(
        np.concatenate(noise), [len(recording) for recording in noise]
    )

    def example(path, label):
        moved = tf.pad(read(path, settings), [[shift, shift]])
        clip = tf.image.random_crop(moved, [length])
        recording = recordings[tf.random.uniform([], 0, len(noise), tf.int32)]
        background = tf.image.random_crop(recording, [length])
        volume = tf.random.uniform([]) * 0.1 * tf.cast(tf.random.uniform([]) < 0.8, tf.float32)
        return mfcc(tf.clip_by_value(clip + volume * background, -1, 1), settings.front_end), label

    data = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths)).repeat()
    return data.map(example, tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def training_steps_per_second(paths, labels, noise, settings: Settings, steps=300) -> float:
    """Return the steps per second of Keras' own training loop, after a warm-up."""
    model = models.build_model(settings)
    model.compile(keras.optimizers.Adam(0.0005), "sparse_categorical_crossentropy", ["accuracy"])
    data = training_data(paths, labels, noise, settings)
    model.fit(data, steps_per_epoch=50, verbose=0)
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=steps, verbose=0)
    return steps / (time.perf_counter() - start)


def features_per_second(audio: np.ndarray, front_end: FrontEnd, cores: int | None = None) -> float:
    """Return the clips per second of TensorFlow's ops on float32 clips in memory, on all cores if None.

    Tracing the ops is not timed. Copying the clips into the pipeline is, as part of the plain way.
    """
    parallel = cores or tf.data.AUTOTUNE
    data = tf.data.Dataset.from_tensor_slices(audio).map(lambda clip: mfcc(clip, front_end), parallel)
    data = data.batch(100).prefetch(tf.data.AUTOTUNE)
    start = time.perf_counter()
    count = sum(len(batch) for batch in data)
    return count / (time.perf_counter() - start)


def evaluate(tflite_path, paths, labels, settings: Settings) -> tuple[float, float]:
    """Return (accuracy, clips per second) of a TFLite file whose interpreter is fed clip by clip."""
    from ai_edge_litert.interpreter import Interpreter  # slow to import

    interpreter = Interpreter(model_path=str(tflite_path))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: mfcc(read(path, settings), settings.front_end)
    )
    correct, start = 0, time.perf_counter()
    for row, label in zip(rows, labels, strict=True):
        interpreter.set_tensor(source["index"], quantize(row.numpy()[None], source))
        interpreter.invoke()
        correct += int(np.argmax(interpreter.get_tensor(target["index"])) == label)
    return correct / len(paths), len(paths) / (time.perf_counter() - start)


def files(data_dir, clips: Clips) -> tuple[list[str], np.ndarray]:
    """Return paths and labels of the clips that are files."""
    real = [number for number, name in enumerate(clips.names) if name]
    return [str(Path(data_dir) / clips.names[number]) for number in real], clips.label[real]


def main():
    """Evaluate a TFLite file: python benchmarks/plain.py FILE DATA_DIR."""
    tflite_path, data_dir = sys.argv[1:]
    settings = TFLiteModel(tflite_path).settings
    data = open_data(DataOptions(data_dir=data_dir), settings)
    paths, labels = [], []
    for clips in (data.validation, data.testing):
        more_paths, more_labels = files(data_dir, clips)
        paths += more_paths
        labels += more_labels.tolist()
    accuracy, rate = evaluate(tflite_path, paths, labels, settings)
    print(f"{accuracy} {rate}")


if __name__ == "__main__":
    main()
