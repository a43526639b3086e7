"""The network that is validated and kept where it is not the one in training, but made of its weights."""

import argparse
from collections.abc import Callable

import numpy as np

from kws.base.errors import UserError
from kws.base.settings import UNKNOWN_INDEX
from kws.data.dataset import Data


def add_arguments(parser):
    """Add the flag that says how what is kept differs from what is trained."""
    parser.add_argument(
        "--prior_correction",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="where training holds more unknown words and negatives than validation, lower the bias of "
        "_unknown_ in what is validated and kept accordingly (logit adjustment, arXiv:2007.07314)",
    )


class Kept:
    """What `network`, a Keras model, is made of: the weights of the like one that `plain()` returns.

    To `percentage` % its weights are those of `blended`, a list of arrays as Keras' get_weights gives them of
    a network of the same form: it forgets less of what that one knew (Wortsman et al., arXiv:2109.01903).
    The list may be shorter; the weights of the layers after it are then the trained ones alone.
    Then `unknown_offset` is added to the bias of `_unknown_`.
    """

    def __init__(
        self,
        plain: Callable,
        network,
        blended: list | None = None,
        percentage: float = 0,
        unknown_offset: float = 0,
    ):
        self.network = network
        self._plain, self._blended, self._share = plain, blended, percentage / 100
        self.changes = f", {percentage:g} % of them blended in" if blended is not None else ""  # to weights
        self.changes += f", {unknown_offset:.3f} added to the bias of _unknown_" if unknown_offset else ""
        self._offset = np.zeros(network.output_shape[1], np.float32)
        self._offset[UNKNOWN_INDEX] = unknown_offset
        shapes = [one.shape for one in self.network.get_weights()]
        if blended is not None and [one.shape for one in blended] != shapes[: len(blended)]:
            raise UserError("only models of the same network can be blended")

    def __call__(self):
        """`network`, with the weights of now."""
        weights = self._plain().get_weights()
        if self._blended is not None:
            pairs = zip(self._blended, weights, strict=False)
            mean = [self._share * old + (1 - self._share) * new for old, new in pairs]
            weights = mean + weights[len(mean) :]
        *others, bias = weights  # the last layer's
        self.network.set_weights([*others, bias + self._offset])
        return self.network


def unknown_offset(data: Data) -> float:
    """What corrects the bias of `_unknown_` where training holds more of it than validation: the logarithm of
    their ratio, which is how much more likely the label was in training (logit adjustment, Menon et al.,
    arXiv:2007.07314). Windows without words count as unknown.
    """
    in_training = data.unknown_per_epoch + data.negatives_per_epoch
    in_training += data.cut_words_per_epoch + data.hard_negatives_per_epoch
    in_validation = np.count_nonzero(data.validation.label == UNKNOWN_INDEX)
    if not in_training or not in_validation:
        return 0.0
    words_in_training = np.count_nonzero(data.training.label > UNKNOWN_INDEX) + len(data.repeated)
    words_in_validation = np.count_nonzero(data.validation.label > UNKNOWN_INDEX)
    return float(np.log(in_validation / words_in_validation * words_in_training / in_training))
