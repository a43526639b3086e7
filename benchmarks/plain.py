"""The plain way of training and evaluating a keyword-spotting model: what the project is measured by.

Per clip: read the file, decode it, shift it, mix in noise, and TensorFlow's own spectrogram and MFCC ops, all
in a `tf.data` pipeline on all cores; a TFLite interpreter fed clip by clip.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import input_data  # noqa: E402
import models  # noqa: E402
from kws.quiet_tf import keras, tf  # noqa: E402
from kws.tflite import TFLiteModel, quantize  # noqa: E402


def mfcc(samples, settings):
    """MFCCs [feature_count] of one clip [clip_samples]."""
    spectrogram = tf.raw_ops.AudioSpectrogram(
        input=samples[:, None],
        window_size=settings.front_end.window_samples,
        stride=settings.front_end.stride_samples,
        magnitude_squared=True,
    )
    coefficients = tf.raw_ops.Mfcc(
        spectrogram=spectrogram,
        sample_rate=settings.sample_rate,
        upper_frequency_limit=4000,
        lower_frequency_limit=20,
        filterbank_channel_count=40,
        dct_coefficient_count=settings.dct_coefficient_count,
    )
    return tf.reshape(coefficients, [-1])


def read(path, settings):
    """The samples [clip_samples] of a WAV file."""
    audio, _ = tf.audio.decode_wav(tf.io.read_file(path), 1, settings.clip_samples)
    return audio[:, 0]


def training_data(paths, labels, noise, settings, batch_size=100):
    """An endless tf.data pipeline of augmented (features, label) batches."""
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
        return mfcc(tf.clip_by_value(clip + volume * background, -1, 1), settings), label

    data = tf.data.Dataset.from_tensor_slices((paths, labels)).shuffle(len(paths)).repeat()
    return data.map(example, tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def training_steps_per_second(paths, labels, noise, settings, steps=300) -> float:
    """Steps per second of Keras' own training loop, after a warm-up."""
    model = models.build_model(settings)
    model.compile(keras.optimizers.Adam(0.0005), "sparse_categorical_crossentropy", ["accuracy"])
    data = training_data(paths, labels, noise, settings)
    model.fit(data, steps_per_epoch=50, verbose=0)
    start = time.perf_counter()
    model.fit(data, steps_per_epoch=steps, verbose=0)
    return steps / (time.perf_counter() - start)


def features_per_second(audio, settings) -> float:
    """Clips per second of TensorFlow's ops on clips in memory, on all cores."""
    data = tf.data.Dataset.from_tensor_slices(audio).map(lambda clip: mfcc(clip, settings), tf.data.AUTOTUNE)
    start = time.perf_counter()
    count = sum(len(batch) for batch in data.batch(100).prefetch(tf.data.AUTOTUNE))
    return count / (time.perf_counter() - start)


def evaluate(tflite_path, paths, labels, settings) -> tuple[float, float]:
    """(accuracy, clips per second) of a TFLite file whose interpreter is fed clip by clip."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(tflite_path))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = tf.data.Dataset.from_tensor_slices(paths).map(lambda path: mfcc(read(path, settings), settings))
    correct, start = 0, time.perf_counter()
    for row, label in zip(rows, labels, strict=True):
        interpreter.set_tensor(source["index"], quantize(row.numpy()[None], source))
        interpreter.invoke()
        correct += int(np.argmax(interpreter.get_tensor(target["index"])) == label)
    return correct / len(paths), len(paths) / (time.perf_counter() - start)


def files(data_dir, clips):
    """Paths and labels of the clips that are files."""
    real = [number for number, name in enumerate(clips.names) if name]
    return [str(Path(data_dir) / clips.names[number]) for number in real], clips.label[real]


def main():
    """Evaluate a TFLite file: python benchmarks/plain.py FILE DATA_DIR."""
    tflite_path, data_dir = sys.argv[1:]
    settings = TFLiteModel(tflite_path).settings
    data = input_data.open_data(input_data.DataOptions(data_dir=data_dir), settings)
    both = [files(data_dir, clips) for clips in (data.validation, data.testing)]
    paths, labels = [*both[0][0], *both[1][0]], np.concatenate([both[0][1], both[1][1]])
    accuracy, rate = evaluate(tflite_path, paths, labels, settings)
    print(f"{accuracy} {rate}")


if __name__ == "__main__":
    main()
