"""TensorFlow and Keras, imported without their start-up messages.

Importing this takes seconds, so functions that need it import it where they use it: `--help`, wrong flags and
the evaluation of a TFLite file answer without it. Keras is tf_keras (Keras 2), whose checkpoints are plain
arrays by name.
"""

import os

from settings import quiet

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

with quiet():
    import tensorflow as tf
    import tf_keras as keras

    tf.config.list_physical_devices()  # looks for GPUs, and complains where there is none
    tf.get_logger().setLevel("ERROR")

__all__ = ["keras", "tf"]
