"""Quantizers of weights, and training through them.

Latent weights are trained; after each step the model gets their quantized values. The gradient at the
quantized values moves the latent ones: the straight-through estimator (arXiv:1308.3432, arXiv:1712.05877).
"""

import numpy as np

from kws.base.quiet_tf import tf

# in mean squares of a kernel's weights; chosen on the validation partition
PRICE_OF_A_BIT = 0.0055
FIRST_BINS = 2000  # so narrow that a bin's width does not matter
ROUNDS = 80  # moves of the centroids; they converge earlier


class LatentWeights(tf.Module):
    """The weights that are trained in place of a model's.

    `quantizers` maps references of the model's kernels to quantizers (tf.Modules). Weights without a
    quantizer are trained as they are. `variables_to_train` are in the order of the model's trainable
    variables.
    """

    def __init__(self, model, quantizers: dict):
        super().__init__()
        self._model_variables = model.trainable_variables
        self._quantizers = [quantizers.get(variable.ref()) for variable in self._model_variables]
        self.variables_to_train = [
            tf.Variable(variable) if quantizer else variable
            for variable, quantizer in zip(self._model_variables, self._quantizers, strict=True)
        ]
        self.quantize_into_model()

    def quantize_into_model(self):
        """Give the model the quantized values of the latent weights."""
        for variable, quantizer, latent in zip(
            self._model_variables, self._quantizers, self.variables_to_train, strict=True
        ):
            if quantizer:
                variable.assign(quantizer(latent))


class EightBitValues(tf.Module):
    """A quantizer to the values of int8 weights with one scale: -127 to 127 times the scale."""

    def __call__(self, weights):
        # symmetric, without -128, as the int8 weights of a TFLite file are
        largest = tf.reduce_max(tf.abs(weights))
        return tf.quantization.fake_quant_with_min_max_vars(weights, -largest, largest, 8, narrow_range=True)


class Clusters(tf.Module):
    """A quantizer to at most `count` values that take few bits after entropy coding.

    It is entropy-constrained quantization (P. A. Chou et al., IEEE Trans. ASSP 37(1), 1989). A weight goes to
    the centroid with the least sum of two terms: its squared distance times the importance of the weight, and
    the price of the bits that a centroid of this frequency takes. Centroids and bits are found for `kernel`
    once. `importance` broadcasts to the kernel: it is the mean square of the input that a weight multiplies,
    so that the outputs change least.
    """

    def __init__(self, kernel, importance: np.ndarray, count: int, eight_bits: bool):
        super().__init__()
        self._count = count
        # 0, as for an input that is always 0, would leave a weight's cluster open
        importance = importance + 1e-6 * importance.mean() + 1e-12
        self._importance = tf.constant(importance / importance.mean(), tf.float32)
        weights, importance = np.ravel(kernel), np.ravel(np.broadcast_to(self._importance, kernel.shape))
        self._price = PRICE_OF_A_BIT * float(np.mean(importance * weights**2))
        centroids = initial_centroids(weights.astype(float), importance.astype(float), count, self._price)
        self._centroids = tf.Variable(centroids.astype(np.float32))
        self._bits = tf.Variable(np.full(count, np.log2(count), np.float32))
        self._eight_bits = EightBitValues() if eight_bits else tf.identity
        for _ in range(ROUNDS):
            self._improve(tf.convert_to_tensor(kernel))

    def __call__(self, weights):
        cluster = self._nearest(weights)
        # a centroid that no weight takes must not widen the scale of int8
        used = tf.math.unsorted_segment_sum(tf.ones_like(weights), cluster, self._count) > 0
        return tf.gather(self._eight_bits(tf.where(used, self._centroids, 0.0)), cluster)

    def _nearest(self, weights):
        """Return the number of the centroid of each weight, int32 in the shape of `weights`."""
        # [..., 1] - [count] -> [..., count]
        distance = self._importance[..., None] * tf.square(weights[..., None] - self._centroids)
        return tf.argmin(distance + self._price * self._bits, -1, tf.int32)

    @tf.function
    def _improve(self, weights):
        """Move each centroid to the mean of its weights, and update its bits by their frequency."""
        cluster, importance = self._nearest(weights), tf.broadcast_to(self._importance, weights.shape)

        def cluster_sums(values):
            return tf.math.unsorted_segment_sum(values, cluster, self._count)

        count = cluster_sums(tf.ones_like(weights))
        means = cluster_sums(importance * weights) / tf.maximum(cluster_sums(importance), 1e-30)
        self._centroids.assign(tf.where(count > 0, means, self._centroids))
        # an unused centroid keeps a finite price, and may be taken again
        probability = tf.maximum(count, 0.5) / tf.reduce_sum(count)
        # Shannon: a value of probability p takes -log2(p) bits
        self._bits.assign(-tf.math.log(probability) / np.log(2).astype(np.float32))


def initial_centroids(weights: np.ndarray, importance: np.ndarray, most: int, price: float) -> np.ndarray:
    """Return at most `most` centroids to start from, repeated to [most].

    Of many narrow bins, the two neighbours whose union costs least are merged again and again (W. H. Equitz,
    IEEE Trans. ASSP 37(10), 1989).
    """
    bins = np.digitize(weights, np.linspace(weights.min(), weights.max(), FIRST_BINS))
    _, bins, count = np.unique(bins, return_inverse=True, return_counts=True)
    mass = np.bincount(bins, importance)
    centroids = np.bincount(bins, importance * weights) / mass

    def all_bits(count):
        return -count * np.log2(count / len(weights))

    while len(count) > most:
        union = count[:-1] + count[1:]
        # what a union of two neighbours adds to the squared error, [bins - 1], and saves in bits
        error = mass[:-1] * mass[1:] / (mass[:-1] + mass[1:]) * np.diff(centroids) ** 2
        saved = all_bits(count[:-1]) + all_bits(count[1:]) - all_bits(union)
        lower = (error - price * saved).argmin()
        pair = slice(lower, lower + 2)
        centroids[lower] = np.average(centroids[pair], weights=mass[pair])
        mass[lower], count[lower] = mass[pair].sum(), union[lower]
        centroids, mass, count = (np.delete(values, lower + 1) for values in (centroids, mass, count))
    return np.resize(centroids, most)
