"""The second network of a C module: it verifies what the first one detects."""

from typing import NamedTuple

from kws.base.errors import UserError
from kws.base.settings import Settings
from kws.board.layers import Network, read_network
from kws.detect.verifier import check_fits, check_same
from kws.model.tflite import TFLiteModel


class SecondNetwork(NamedTuple):
    """A verifier with the labels and the windows of the first network; stride and features may differ."""

    model: TFLiteModel
    network: Network

    @property
    def settings(self) -> Settings:
        return self.model.settings

    def sizes(self, samples_between: int) -> dict:
        """Return its sizes for kws_model.h, if the windows that it scores begin `samples_between` apart."""
        front_end = self.settings.front_end
        new_frames = front_end.frame_count
        # frames of the window before can stay if the windows are whole strides apart
        if samples_between % front_end.stride_samples == 0:
            new_frames = min(new_frames, samples_between // front_end.stride_samples)
        return {
            "FRAMES": front_end.frame_count,
            "STRIDE": front_end.stride_samples,
            "SHARED": front_end.frame_count - new_frames,
            "COEFFICIENTS": front_end.frame_features,
            "DCT": front_end.dct_coefficient_count,
            "LAYERS": len(self.network.layers),
            "INPUT_ZERO": self.network.input[1],
        }


def read_second_network(path, settings: Settings, network: Network) -> SecondNetwork:
    """Return the verifier in the TFLite file `path`, for a first model with these settings and layers.

    UserError if it does not fit the first: the C module has one list of labels and one FFT.
    """
    model = TFLiteModel(path)
    ours, theirs = settings.front_end, model.settings.front_end
    # the words in the same order; a verifier on the PC may know more of them
    check_same(str(path), [("words", settings.wanted_words, model.settings.wanted_words)])
    check_fits(model.settings, settings)
    # one FFT and one set of mel tables
    check_same(str(path), [("samples of a window", ours.window_samples, theirs.window_samples)])
    # one scale of scores, KWS_SCORE_SCALE, is for both
    second = read_network(model.content, f"{path} ({model.settings.model_architecture})")
    if second.scores != network.scores:
        raise UserError(f"{path} cannot verify this model: its scores have another scale")
    return SecondNetwork(model, second)
