"""The optimiser Muon: orthogonalised momentum for the kernels of hidden layers, Adam for everything else.

K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/; updates are scaled to the size of Adam's,
so that one learning rate serves both, as in arXiv:2502.16982.
"""

from kws.base.errors import UserError
from kws.base.quiet_tf import keras, tf

MOMENTUM = 0.95
ITERATIONS = 4
COEFFICIENTS = 3.4445, -4.7750, 2.0315  # the quintic's, which brings singular values near 1


class Muon(keras.optimizers.Adam):
    """Muon for all two-dimensional variables but the last, the output layer's; Adam for the others."""

    def build(self, var_list):
        super().build(var_list)
        kernels = [variable for variable in var_list if len(variable.shape) == 2]
        if len(kernels) < 2:
            raise UserError("--optimizer muon is for models with fully connected hidden layers")
        self._hidden = {self._var_key(variable) for variable in kernels[:-1]}

    def update_step(self, gradient, variable):
        key = self._var_key(variable)
        if key not in self._hidden:
            super().update_step(gradient, variable)
            return
        # Nesterov's momentum, kept where Adam has its own
        momentum = self._momentums[self._index_dict[key]]
        momentum.assign(MOMENTUM * momentum + gradient)
        update = orthogonalised(gradient + MOMENTUM * momentum)
        scale = 0.2 * max(variable.shape) ** 0.5
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
