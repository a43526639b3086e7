"""Weights that may take only some values, trained straight through: the gradient at the values taken moves
free weights, which are rounded to allowed values after every step (arXiv:1511.00363, arXiv:1712.05877).
"""

import numpy as np

from backend import tf

CLUSTERS = 32
PRICE_OF_A_BIT = 0.0055  # in mean squares of a kernel's weights; chosen on the validation partition
FIRST_BINS = 2000
ROUNDS = 80


class StraightThrough(tf.Module):
    """The weights to train in place of a model's.

    `free` has a variable for each trainable variable of the model, in order. `roundings` maps references of
    kernels to tf.Modules that give allowed values for free ones; what is not in it stays as it is.
    """

    def __init__(self, model, roundings: dict):
        super().__init__()
        self._variables = model.trainable_variables
        self._roundings = [roundings.get(variable.ref()) for variable in self._variables]
        self.free = [
            tf.Variable(variable) if rounding else variable
            for variable, rounding in zip(self._variables, self._roundings, strict=True)
        ]
        self.apply()

    def apply(self):
        """Give the model the allowed values of the free weights."""
        for variable, rounding, free in zip(self._variables, self._roundings, self.free, strict=True):
            if rounding:
                variable.assign(rounding(free))


class EightBits(tf.Module):
    """The values that int8 weights with one scale have: -127 to 127 times the scale."""

    def __call__(self, weights):
        largest = tf.reduce_max(tf.abs(weights))
        return tf.quantization.fake_quant_with_min_max_vars(weights, -largest, largest, 8, narrow_range=True)


class Clusters(tf.Module):
    """At most CLUSTERS values, few bits after entropy coding: entropy-constrained quantization (P. A. Chou
    et al., IEEE Trans. ASSP 37(1), 1989).

    A weight goes to the centroid with the least sum of two things: its squared distance, times the importance
    of the weight, and the price of the bits that a centroid of this frequency takes. Centroids and bits stay
    as they are found for `kernel`. `importance` broadcasts to it: the mean square of the input that a weight
    multiplies, so that the outputs change least.
    """

    def __init__(self, kernel, importance: np.ndarray, eight_bits: bool):
        super().__init__()
        importance = importance + 1e-6 * importance.mean() + 1e-12  # of a silent input: next to nothing
        self._importance = tf.constant(importance / importance.mean(), tf.float32)
        weights, importance = np.ravel(kernel), np.ravel(np.broadcast_to(self._importance, kernel.shape))
        self._price = PRICE_OF_A_BIT * float(np.mean(importance * weights**2))
        centroids = merged(weights.astype(float), importance.astype(float), self._price)
        self._centroids = tf.Variable(centroids.astype(np.float32))
        self._bits = tf.Variable(np.full(CLUSTERS, np.log2(CLUSTERS), np.float32))
        self._eight_bits = EightBits() if eight_bits else tf.identity
        for _ in range(ROUNDS):
            self._improve(tf.convert_to_tensor(kernel))

    def __call__(self, weights):
        cluster = self._nearest(weights)
        used = tf.math.unsorted_segment_sum(tf.ones_like(weights), cluster, CLUSTERS) > 0
        return tf.gather(self._eight_bits(tf.where(used, self._centroids, 0.0)), cluster)

    def _nearest(self, weights):
        distance = self._importance[..., None] * tf.square(weights[..., None] - self._centroids)
        return tf.argmin(distance + self._price * self._bits, -1, tf.int32)

    @tf.function
    def _improve(self, weights):
        """Move the centroids to the means of their weights, and count their bits anew."""
        cluster, importance = self._nearest(weights), tf.broadcast_to(self._importance, weights.shape)

        def of_each_cluster(values):
            return tf.math.unsorted_segment_sum(values, cluster, CLUSTERS)

        count = of_each_cluster(tf.ones_like(weights))
        means = of_each_cluster(importance * weights) / tf.maximum(of_each_cluster(importance), 1e-30)
        self._centroids.assign(tf.where(count > 0, means, self._centroids))
        share = tf.maximum(count, 0.5) / tf.reduce_sum(count)
        self._bits.assign(-tf.math.log(share) / np.log(2).astype(np.float32))


def merged(weights: np.ndarray, importance: np.ndarray, price: float) -> np.ndarray:
    """CLUSTERS centroids to start from, [CLUSTERS]: of many narrow bins, the two neighbours whose union costs
    least are merged again and again (W. H. Equitz, IEEE Trans. ASSP 37(10), 1989).
    """
    bins = np.digitize(weights, np.linspace(weights.min(), weights.max(), FIRST_BINS))
    _, bins, count = np.unique(bins, return_inverse=True, return_counts=True)
    mass = np.bincount(bins, importance)
    centroids = np.bincount(bins, importance * weights) / mass

    def all_bits(count):
        return -count * np.log2(count / len(weights))

    while len(count) > CLUSTERS:
        union = count[:-1] + count[1:]
        error = mass[:-1] * mass[1:] / (mass[:-1] + mass[1:]) * np.diff(centroids) ** 2
        saved = all_bits(count[:-1]) + all_bits(count[1:]) - all_bits(union)
        left = (error - price * saved).argmin()
        pair = slice(left, left + 2)
        centroids[left] = np.average(centroids[pair], weights=mass[pair])
        mass[left], count[left] = mass[pair].sum(), union[left]
        centroids, mass, count = (np.delete(values, left + 1) for values in (centroids, mass, count))
    return np.resize(centroids, CLUSTERS)
