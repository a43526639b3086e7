"""Networks that compute a stream on a board frame by frame: each layer computes an output once.

c/kws_nn.c does it: a layer keeps the inputs of its next output, and computes it as soon as they are there.
"""

from kws.base.settings import Settings
from kws.board.layers import Network


def incremental(network: Network, frames: int, hop_frames: int) -> Network:
    """Return the network with `frames_between` set if it can compute a stream frame by frame.

    That takes convolutions one after the other, not padded over time, and then layers without time. `frames`
    are a clip's, `hop_frames` lie between the starts of two clips that are scored.
    """
    total_stride, layers = 1, []
    for layer in network.layers:
        whole = layer.to_shape.height == 1
        if whole:
            # a layer over all frames that are left goes on with the strides of the layers before
            layer = layer._replace(strides=(1, layer.strides[1]))
        length, stride = layer.kernel[0], layer.strides[0]
        left_out = length < (layer.from_shape.height if whole else stride)
        if layer.from_shape.height != frames or layer.padded_in_time or left_out:
            return network
        layers.append(layer)
        total_stride, frames = total_stride * stride, layer.to_shape.height
    if frames > 1 or hop_frames % total_stride:
        return network
    return network._replace(layers=layers, frames_between=total_stride)


def sizes(network: Network, frames: int, clip_strides: int) -> dict[str, int]:
    """Return the sizes for kws_model.h: bytes that layers keep, and frames of silence before a stream.

    A stream's first clip has `frames` of the first `clip_strides`. Its first frame must be one at which the
    layers begin an output.
    """
    between = network.frames_between
    silence = -(-clip_strides // between) * between - (clip_strides - frames) if between else frames
    return {"STREAMING": kept(network), "SILENCE": silence}


def kept(network: Network) -> int:
    """Return the bytes that all layers keep of a stream; 0 if the network takes clips as a whole."""
    return sum(layer.kept for layer in network.layers) if network.frames_between else 0


def macs_of_a_second(network: Network, settings: Settings) -> float:
    """Return the multiply-accumulates for a second of a stream, computed frame by frame."""
    rate, macs = settings.sample_rate / settings.front_end.stride_samples, 0.0
    for layer in network.layers:
        rate /= layer.strides[0]
        macs += rate * layer.weights.size * layer.to_shape.width
    return macs
