"""What a frozen trunk computes of audio without the words, kept in a file: negatives that need no audio.

A trunk is the layers of a stream_cnn that are not trained, up to a ReLU. Its outputs are what the layers
behind it, the head, learn from. openWakeWord trains on such a file too.
"""

import hashlib
import itertools
import zipfile
import zlib
from dataclasses import dataclass, replace

import numpy as np

from kws.base.errors import UserError
from kws.base.files import appears_complete
from kws.base.quiet_tf import keras
from kws.base.text import folded, words_in
from kws.model.checkpoints import keras_predictor

DROPOUT = 0.3  # of channels; people's words differ from synthetic ones in some
LEVELS = 7  # of an output in the file: as good as 15 in trials, and a third smaller


def split(network, frozen: int):
    """Split a Keras stream_cnn after its first `frozen` layers with weights and the ReLU behind them.

    Returns the trunk, a Keras model from features to outputs [outputs, 1, channels], and the head, one from
    these outputs to scores. They share the network's layers. In training, channels are dropped between them.
    """
    last = [layer for layer in network.layers if layer.weights][frozen - 1]
    place = network.layers.index(last)
    while not isinstance(network.layers[place], keras.layers.ReLU):
        place += 1
    trunk = keras.Model(network.input, network.layers[place].output)
    outputs = keras.Input(trunk.output_shape[1:])
    x = keras.layers.SpatialDropout2D(DROPOUT)(outputs)
    for layer in network.layers[place + 1 : -1]:
        x = layer(x)
    return trunk, keras.Model(outputs, keras.layers.Activation("softmax")(x))


def fingerprint_of(trunk) -> str:
    """Return what tells a trunk from others: a hash of its weights."""
    weights = [np.asarray(value, np.float32).tobytes() for value in trunk.get_weights()]
    return hashlib.sha256(b"".join(weights)).hexdigest()[:16]


@dataclass(frozen=True)
class StoredOutputs:
    """Outputs of one trunk, in LEVELS steps of `step`."""

    trunk: str  # fingerprint_of
    step: np.ndarray  # float32 [channels]
    windows: np.ndarray  # uint8 [windows, outputs, channels]: to learn from
    words: np.ndarray  # str [windows]: the word in it, '' if it is of a long recording
    streams: list[np.ndarray]  # uint8 [outputs, channels] each: long recordings to choose thresholds on
    names: list[str]  # of these recordings
    said: list[str]  # the words often said in each of them, with spaces between

    def write(self, path):
        """Write the file, the values of a channel side by side, as they compress best."""
        streams = np.concatenate(self.streams) if self.streams else np.zeros((0, len(self.step)), np.uint8)
        with appears_complete(path) as partial, open(partial, "wb") as out:
            np.savez_compressed(
                out,
                trunk=self.trunk,
                step=self.step,
                windows=self.windows.transpose(2, 0, 1),
                words=self.words,
                streams=streams.T,
                lengths=[len(stream) for stream in self.streams],
                names=self.names,
                said=self.said,
            )

    @staticmethod
    def read(path, trunk) -> "StoredOutputs":
        """Read the outputs of `trunk`, a Keras model; UserError if they are damaged or of another trunk."""
        try:
            with np.load(path) as file:
                stored = {name: file[name] for name in file.files}
            windows, streams = stored["windows"].transpose(1, 2, 0), stored["streams"].T
            streams = np.split(streams, np.cumsum(stored["lengths"])[:-1].astype(int))
            own, step, words = str(stored["trunk"]), stored["step"], stored["words"]
            names = stored["names"].tolist()
            said = stored["said"].tolist() if "said" in stored else [""] * len(names)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise UserError(f"{path}: {error.strerror}") from None
        # numpy and zipfile say in many ways that a file is damaged
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} does not hold outputs of a trunk, or is damaged ({error})") from None
        if own != fingerprint_of(trunk):
            raise UserError(f"{path} was made with another trunk than --start_from gives: make it anew")
        return StoredOutputs(own, step, np.ascontiguousarray(windows), words, streams, names, said)

    def without(self, words: tuple[str, ...]) -> "StoredOutputs":
        """Return these without the windows of any of `words`, and without recordings that often say one."""
        others = ~np.isin([folded(str(word)) for word in self.words], [folded(word) for word in words])
        phrases = [set(words_in(folded(word))) for word in words]
        kept = [not any(phrase and phrase <= set(said.split()) for phrase in phrases) for said in self.said]
        return replace(
            self,
            windows=self.windows[others],
            words=self.words[others],
            streams=list(itertools.compress(self.streams, kept)),
            names=list(itertools.compress(self.names, kept)),
            said=list(itertools.compress(self.said, kept)),
        )

    def values(self, levels: np.ndarray) -> np.ndarray:
        """Return the outputs behind `levels`, uint8 [..., channels], as float32."""
        return levels * self.step

    def rounded(self, outputs: np.ndarray) -> np.ndarray:
        """Round outputs as those in the file are; a head would tell them apart by this."""
        return self.values(levels_of(outputs, self.step))


def levels_of(outputs: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Return outputs [..., channels] in steps of `step`, uint8 from 0 to LEVELS."""
    return np.clip(np.rint(outputs / step), 0, LEVELS).astype(np.uint8)


def predictor(trunk):
    """Return a function from features [clips, feature_count] to outputs [clips, outputs, channels]."""
    predict = keras_predictor(trunk)
    return lambda features: predict(features)[:, :, 0]
