"""Start a training from a checkpoint: the same network or its trunk, for the same words or for others."""

import dataclasses

from kws.base.settings import DATA_FIELDS, Settings, SettingsFlags
from kws.model import checkpoints

MOST_LISTED = 12  # labels in a line of output: a pretrained network has hundreds


def settings_to_start(path, flags: SettingsFlags) -> Settings:
    """Return the settings for a training that starts from the weights of the checkpoint `path`.

    The network's settings are the checkpoint's, and so are the others unless a flag says otherwise. Raises
    UserError if a flag asks for another network. Longer or shorter clips may fit: `load_start` says if not.
    """
    stored = checkpoints.read_settings(path)
    if stored is None:
        return flags.resolve()
    names = (*DATA_FIELDS, "clip_duration_ms")
    given = flags.typed | flags.preset
    if stored.model_architecture == "stream_cnn":
        # its trunk may go on with more convolutions
        names = (*names, "model_size_info")
    own = {name: given[name] for name in names if name in given}
    # thresholds were chosen for the weights before
    return flags.resolve(dataclasses.replace(stored, **own, detector=None), str(path))


def trunk_layers(stored: Settings | None, settings: Settings) -> int | None:
    """Return how many layers with weights the network of `settings` has in common with one of `stored`.

    None stands for all but perhaps the last. Of another stream_cnn they are the convolutions that both begin
    with, each with its batch normalisation.
    """
    if stored is None or settings.model_architecture != "stream_cnn":
        return None
    theirs, ours = stored.model_size_info[1:], settings.model_size_info[1:]
    if theirs == ours and stored.clip_duration_ms == settings.clip_duration_ms:
        return None
    blocks = 0
    while blocks < min(len(theirs), len(ours)) // 5 and theirs[: 5 * blocks + 5] == ours[: 5 * blocks + 5]:
        blocks += 1
    # a depthwise convolution and one over channels, of which the first block has only one
    return max(0, 4 * blocks - 2)


def load_start(network, settings: Settings, path) -> list[str]:
    """Give `network`, a Keras model of `settings`, the weights of a checkpoint of the same network.

    If the checkpoint is for other wanted words, the last layer takes the weights of the labels that both
    have, and keeps its own for the others. If it is of another stream_cnn, the layers of `trunk_layers` take
    its weights. Returns a line for each layer that says what it has. Raises UserError if the weights do not
    fit.
    """
    stored, weights = checkpoints.read_settings(path), checkpoints.read_weights(path)
    layers = [layer for layer in network.layers if layer.weights]
    shared = trunk_layers(stored, settings)
    if shared is not None:
        for layer, values in zip(layers[:shared], weights, strict=False):
            checkpoints.assign_layer(layer, values)
        lines = [f"{layer.name}: kept ({checkpoints.shapes(layer.weights)})" for layer in layers[:shared]]
        return [*lines, *(f"{layer.name}: new, at random" for layer in layers[shared:])]
    # without settings, a last layer of the same shape is taken to be for the same labels
    unnamed = settings.labels if checkpoints.fits(layers[-1], weights[-1]) else ()
    theirs = stored.labels if stored else unnamed
    lines = [f"{layer.name}: kept ({checkpoints.shapes(layer.weights)})" for layer in layers]
    if theirs != settings.labels:
        weights[-1] = _with_shared_labels(layers[-1], weights[-1], theirs, settings.labels)
        lines[-1] = _what_was_kept(layers[-1], theirs, settings.labels)
    checkpoints.assign_weights(network, weights, path, settings)
    return lines


def _with_shared_labels(layer, values, theirs, ours):
    """Return the weights of the last `layer` with the values of `values` for the labels that both have.

    The last axis of `values` is for the labels `theirs`, the last axis of the layer's weights for `ours`.
    """
    both = [label for label in ours if label in theirs]
    to, source = ([labels.index(label) for label in both] for labels in (ours, theirs))
    result = {}
    for name, value in values.items():
        own = checkpoints.weight_of(layer, name)  # [..., labels]: a kernel or a bias
        if own is None or own.shape[:-1] != value.shape[:-1] or theirs and value.shape[-1] != len(theirs):
            return values  # they do not fit, as the caller finds out
        result[name] = own.numpy()
        result[name][..., to] = value[..., source]
    return result


def _what_was_kept(layer, theirs, ours):
    new = [label for label in ours if label not in theirs]
    gone = [label for label in theirs if label not in ours]
    return (
        f"{layer.name}: kept for {_listed([label for label in ours if label in theirs])}"
        + (f"; new, at random, for {_listed(new)}" if new else "")
        + (f"; dropped for {_listed(gone)}" if gone else "")
    )


def _listed(labels):
    more = f" and {len(labels) - MOST_LISTED} more" if len(labels) > MOST_LISTED else ""
    return (", ".join(labels[:MOST_LISTED]) or "nothing") + more
