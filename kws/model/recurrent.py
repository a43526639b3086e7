"""A recurrent cell that Keras does not have."""

from kws.base.quiet_tf import keras, tf


@keras.saving.register_keras_serializable("keyword_spotting")
class ProjectedLSTMCell(keras.layers.Layer):
    """An LSTM cell with peepholes and a linear projection of its output (Sak et al., arXiv:1402.1128).

    It computes the same as TensorFlow's `tf.compat.v1.nn.rnn_cell.LSTMCell(units, use_peepholes=True,
    num_proj=projection)`, with Keras' order of gates: input, forget, cell, output. The state is the projected
    output [batch, projection] and the cells [batch, units]. `implementation` is Keras' name: 1 has a matrix
    product for each gate, 2 one for all.
    """

    def __init__(self, units: int, projection: int, implementation: int = 2, **options):
        super().__init__(**options)
        self.units, self.projection, self.implementation = units, projection, implementation
        self.state_size, self.output_size = [projection, units], projection

    def build(self, input_shape):
        self.kernel = self.add_weight("kernel", (input_shape[-1], 4 * self.units))
        self.recurrent_kernel = self.add_weight("recurrent_kernel", (self.projection, 4 * self.units))
        self.bias = self.add_weight("bias", (4 * self.units,), initializer=_open_forget_gate)
        self.peepholes = self.add_weight("peepholes", (3 * self.units,), initializer="zeros")
        self.projection_kernel = self.add_weight("projection_kernel", (self.units, self.projection))

    def call(self, inputs, states):
        output, cells = states  # [batch, projection], [batch, units]
        input_gate, forget_gate, candidate, output_gate = self._sums(inputs, output)
        input_peephole, forget_peephole, output_peephole = tf.split(self.peepholes, 3)
        # peepholes: the gates see the cells, the output gate their new values
        kept = tf.sigmoid(forget_gate + forget_peephole * cells) * cells
        cells = kept + tf.sigmoid(input_gate + input_peephole * cells) * tf.tanh(candidate)
        # [batch, units] @ [units, projection]
        output = (tf.sigmoid(output_gate + output_peephole * cells) * tf.tanh(cells)) @ self.projection_kernel
        return output, [output, cells]

    def _sums(self, inputs, output):
        """Return the sums that enter the gates, four times [batch, units]."""
        weights = self.kernel, self.recurrent_kernel, self.bias
        if self.implementation == 2:
            kernel, recurrent, bias = weights
            # one product is faster in training
            return tf.split(inputs @ kernel + output @ recurrent + bias, 4, axis=1)
        of_gates = zip(*(tf.split(weight, 4, axis=-1) for weight in weights), strict=True)
        return [inputs @ kernel + output @ recurrent + bias for kernel, recurrent, bias in of_gates]

    def get_config(self):
        names = "units", "projection", "implementation"
        return super().get_config() | {name: getattr(self, name) for name in names}


def _open_forget_gate(shape, dtype=None):
    """Return biases of zero, and of one for the forget gate, the second of four."""
    # an LSTM that begins by forgetting learns long dependencies slowly (Jozefowicz et al., ICML 2015)
    units = shape[0] // 4
    return tf.concat([tf.zeros(units, dtype), tf.ones(units, dtype), tf.zeros(2 * units, dtype)], 0)
