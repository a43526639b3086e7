"""Parts that Keras lacks: a recurrent cell with a projection, and the optimiser Muon."""

from kws.base.errors import UserError
from kws.base.quiet_tf import keras, tf

MOMENTUM = 0.95
ITERATIONS = 4
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # the quintic's, which brings singular values near 1


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


class Muon(keras.optimizers.Adam):
    """Orthogonalised momentum for kernels, except depthwise and the output layer's; Adam for the others.

    K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/; updates are scaled to the size of
    Adam's, so that one learning rate serves both, as in arXiv:2502.16982. A convolution's kernel is taken
    as a matrix [inputs at one place, channels].
    """

    def build(self, var_list):
        super().build(var_list)
        # depthwise kernels have one output for each channel
        kernels = [one for one in var_list if len(one.shape) > 1 and one.shape[-1] > 1]
        if len(kernels) < 2:
            raise UserError("--optimizer muon is for models with hidden layers")
        self._hidden = {self._var_key(variable) for variable in kernels[:-1]}

    def update_step(self, gradient, variable):
        key = self._var_key(variable)
        if key not in self._hidden:
            super().update_step(gradient, variable)
            return
        # Nesterov's momentum, kept where Adam has its own
        momentum = self._momentums[self._index_dict[key]]
        momentum.assign(MOMENTUM * momentum + gradient)
        matrix = tf.reshape(gradient + MOMENTUM * momentum, (-1, variable.shape[-1]))
        update = tf.reshape(orthogonalised(matrix), variable.shape)
        scale = 0.2 * max(matrix.shape) ** 0.5
        variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * scale * update)


def orthogonalised(matrix):
    """Return a matrix with the singular vectors of `matrix` [rows, columns] and singular values near 1.

    The iteration is Newton and Schulz's.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return tf.transpose(orthogonalised(tf.transpose(matrix)))
    a, b, c = COEFFICIENTS
    x = matrix / (tf.norm(matrix) + 1e-7)
    for _ in range(ITERATIONS):
        gram = tf.matmul(x, x, transpose_b=True)  # [rows, rows]
        x = a * x + tf.matmul(b * gram + c * tf.matmul(gram, gram), x)
    return x
