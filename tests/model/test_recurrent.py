"""The cell of the LSTM."""

import numpy as np

import models
from networks import features, tiny, with_random_weights


def test_the_lstm_has_peepholes_and_a_projection():
    """Against the equations of arXiv:1402.1128, one clip and gate at a time."""
    settings = tiny("lstm")
    model = with_random_weights(models.build_model(settings))
    kernel, recurrent, bias, peepholes, projection = model.layers[2].get_weights()
    (clip,) = features(settings, 1)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def gate(number, frame, output):
        part = slice(7 * number, 7 * number + 7)
        return frame @ kernel[:, part] + output @ recurrent[:, part] + bias[part]

    cells, output = np.zeros(7), np.zeros(5)
    for frame in clip.reshape(10, 10):
        into, kept = gate(0, frame, output), gate(1, frame, output)
        candidate, out = np.tanh(gate(2, frame, output)), gate(3, frame, output)
        kept = sigmoid(kept + peepholes[7:14] * cells)
        cells = kept * cells + sigmoid(into + peepholes[:7] * cells) * candidate
        output = (sigmoid(out + peepholes[14:] * cells) * np.tanh(cells)) @ projection
    from kws.base.quiet_tf import keras

    of_lstm = keras.Model(model.input, model.layers[2].output)(clip[None])
    np.testing.assert_allclose(of_lstm[0], output, rtol=1e-4)
