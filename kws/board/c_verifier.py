"""A second network in the C module, which verifies what the first one detects."""

from typing import NamedTuple

from kws.base.errors import UserError
from kws.base.settings import Settings
from kws.board.layers import Network, read_network
from kws.detect.verifier import check_same
from kws.model.tflite import TFLiteModel


class Verifier(NamedTuple):
    """A second network, for the labels of the first and with its frames, but for their stride."""

    model: TFLiteModel
    network: Network

    @property
    def settings(self) -> Settings:
        return self.model.settings

    def sizes(self, hop_samples: int) -> dict:
        """What kws_model.h says of it, with windows `hop_samples` apart."""
        front_end = self.settings.front_end
        fresh = front_end.frame_count  # frames of a window that the one before has not
        if hop_samples % front_end.stride_samples == 0:
            fresh = min(fresh, hop_samples // front_end.stride_samples)
        return {
            "FRAMES": front_end.frame_count,
            "STRIDE": front_end.stride_samples,
            "SHARED": front_end.frame_count - fresh,
            "LAYERS": len(self.network.layers),
            "INPUT_ZERO": self.network.input[1],
        }


def read_verifier(path, settings: Settings, network: Network) -> Verifier:
    """The verifier in a TFLite file for a first network; UserError where it does not go with that."""
    model = TFLiteModel(path)
    ours, theirs = settings.front_end, model.settings.front_end
    check_same(
        str(path),
        (
            ("words", settings.wanted_words, model.settings.wanted_words),
            ("sample rate, Hz", ours.sample_rate, theirs.sample_rate),
            ("samples of a clip", ours.clip_samples, theirs.clip_samples),
            ("samples of a window", ours.window_samples, theirs.window_samples),
            ("coefficients of a frame", ours.dct_coefficient_count, theirs.dct_coefficient_count),
        ),
    )
    second = read_network(model.content, f"{path} ({model.settings.model_architecture})")
    if second.scores != network.scores:
        raise UserError(f"{path} cannot verify this model: its scores have another scale")
    return Verifier(model, second)
