"""Training on several GPUs or machines (tf.distribute), behind one wrapper.

Everything else of a training is the same with one device and with several. TensorFlow calls each process of a
training on several machines a worker.
"""

import os
from collections.abc import Callable

from kws.base.errors import UserError
from kws.base.quiet_tf import tf
from kws.data.batches import Batch


class Devices:
    """The devices that a network is built for, and the part that this process has in training it.

    Each process makes the `rows` of every batch, a slice. The one that `is_first` also validates, saves and
    prints.
    """

    def __init__(self, strategy):
        self._strategy = strategy
        self._worker, self._workers = _worker_index_and_count(strategy)
        self.rows = slice(self._worker, None, self._workers)
        self.is_first = self._worker == 0

    def __str__(self):
        return f"worker {self._worker} of {self._workers}"

    def scope(self):
        """Return the context in which to create variables."""
        return self._strategy.scope()

    def check(self, network, batch_size: int):
        """Raise UserError if `network` cannot be trained on batches of this size here."""
        replicas = self._strategy.num_replicas_in_sync
        if batch_size % replicas:
            raise UserError(f"--batch_size {batch_size} cannot be shared evenly by {replicas} replicas")
        # moving means of batch normalisation: each replica has its own, read as their average
        averaged = [v for v in network.weights if v.synchronization == tf.VariableSynchronization.ON_READ]
        if averaged and self._workers > 1:
            # to save them, one worker would have to read them from the others, which do not listen then
            raise UserError("batch normalisation works with --distribute none or mirrored only")

    def check_single(self, flag: str):
        """Raise UserError if there are several devices."""
        if self._strategy.num_replicas_in_sync > 1:
            raise UserError(f"{flag} trains a head in a minute, on one device: leave out --distribute")

    def spread(self, step: Callable) -> Callable:
        """Return `step`, from a Batch to sums over its clips, run on all devices.

        Each device takes its share of the rows that this process has; the sums are over all devices of all
        processes.
        """
        replicas = self._strategy.num_replicas_in_sync // self._workers  # of this process

        # every replica gets the whole batch of its process, and takes each `replicas`-th row
        def step_of_replica(batch: Batch):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group % replicas
            return step(batch.map(lambda part: part[replica::replicas]))

        def step_of_all(batch: Batch):
            sums = self._strategy.run(step_of_replica, (batch,))
            return [self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in sums]

        return step_of_all


def open_devices(name: str) -> Devices:
    """Open the devices that --distribute names.

    Raises UserError for multi_worker without the TF_CONFIG that says who the workers are.
    """
    if name == "mirrored":
        return Devices(tf.distribute.MirroredStrategy())
    if name == "multi_worker":
        if not os.environ.get("TF_CONFIG"):
            what = "the environment variable TF_CONFIG, which says who the workers are (see TensorFlow)"
            raise UserError(f"--distribute multi_worker needs {what}")
        return Devices(tf.distribute.MultiWorkerMirroredStrategy())
    return Devices(tf.distribute.get_strategy())


def devices_of(network) -> Devices:
    """Return the devices that a Keras model was built for."""
    return Devices(network.distribute_strategy)


def _worker_index_and_count(strategy) -> tuple[int, int]:
    # None, or a cluster without tasks, on one machine
    resolver = strategy.cluster_resolver
    if not resolver or not resolver.cluster_spec().as_dict():
        return 0, 1
    # TensorFlow numbers a chief, if there is one, before the workers
    cluster = resolver.cluster_spec().as_dict()
    workers = [(task, index) for task in ("chief", "worker") for index in range(len(cluster.get(task, ())))]
    return workers.index((resolver.task_type, resolver.task_id)), len(workers)
