"""Training on several GPUs or machines (tf.distribute), behind one wrapper of the training step.

Everything else of a training is the same with one device and with several.
"""

import os
from collections.abc import Callable

from kws.base.errors import UserError
from kws.base.quiet_tf import tf
from kws.data.batches import Batch


def new_strategy(name: str):
    """The tf.distribute strategy that --distribute names.

    Raises UserError for multi_worker without the TF_CONFIG that says who the workers are.
    """
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi_worker":
        if not os.environ.get("TF_CONFIG"):
            raise UserError(
                "--distribute multi_worker needs the environment variable TF_CONFIG: the addresses of all "
                "workers, and which of them this one is, as TensorFlow documents it"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def worker_index_and_count(strategy) -> tuple[int, int]:
    """Which worker of `strategy` this process is, and how many there are; worker 0 writes the files."""
    resolver = strategy.cluster_resolver
    if not resolver or not resolver.cluster_spec().as_dict():
        return 0, 1
    cluster = resolver.cluster_spec().as_dict()
    workers = [(task, index) for task in ("chief", "worker") for index in range(len(cluster.get(task, ())))]
    return workers.index((resolver.task_type, resolver.task_id)), len(workers)


def check(model, batch_size: int):
    """Raise UserError where `model`, built under a strategy, cannot be trained on such batches."""
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(f"--batch_size {batch_size} cannot be shared evenly by {replicas} replicas")
    averaged = [v for v in model.weights if v.synchronization == tf.VariableSynchronization.ON_READ]
    if averaged and worker_index_and_count(strategy)[1] > 1:
        # to save them, one worker would have to read them from the others, which do not listen then
        raise UserError("batch normalisation works with --distribute none or mirrored only")


def distributed(step: Callable, strategy) -> Callable:
    """`step`, from a Batch to sums over its clips, run by all replicas of `strategy` on their shares of the
    batch that this worker has; the sums are those over all replicas.
    """
    replicas = strategy.num_replicas_in_sync // worker_index_and_count(strategy)[1]  # of this worker

    def step_of_replica(batch: Batch):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group % replicas
        return step(batch.map(lambda part: part[replica::replicas]))

    def step_of_all(batch: Batch):
        sums = strategy.run(step_of_replica, (batch,))
        return [strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in sums]

    return step_of_all
