"""The training loop that train.py and optimisations.py share: resumable, seeded, from labels or a teacher.

`fit` is the whole of it; `compiled_steps` is the training step. What is trained is a `Trainee`
(kws/train/trainee.py), the options of a run are in kws/train/runs.py.
"""

import contextlib
import itertools
import math
import time
from pathlib import Path

import numpy as np

from kws.base.errors import UserError, stop_if_interrupted
from kws.base.quiet_tf import keras, tf
from kws.base.settings import NO_WORD, UNKNOWN_INDEX, Settings
from kws.data.batches import Batch, Batching, training_batches
from kws.data.dataset import Data
from kws.model.batch_norm import fit_momentum
from kws.model.checkpoints import KerasModel, delete_unfinished, keep_best, writing
from kws.train import mining
from kws.train.distribution import devices_of
from kws.train.runs import (
    RunOptions,
    TrainingOptions,
    claimed_folder,
    log_progress,
    run_identity,
    write_history,
)
from kws.train.trainee import Trainee
from kws.train.validation import LEAST_SCORE, validation

TEMPERATURE = 4.0  # of the softmax in which a teacher's scores are learnt; chosen on the validation partition
STEPS_AT_ONCE = 20  # steps of one call into TensorFlow, which costs as much as some steps of a small network


def fit(trainee: Trainee, data: Data, settings: Settings, options: RunOptions) -> None:
    """Train `trainee`, and keep the checkpoint that validates best; resume an interrupted run.

    A resumed run ends as an uninterrupted one does, except for what dropout leaves out. A run that is given
    more steps than before continues with them. On several machines each process makes its share of every
    batch, and the first does all else. Raises UserError if `train_dir` holds a run with other flags or one
    that is running, or if training diverges.
    """
    training, network = options.training, trainee.network

    # 1. What cannot be trained here is said before anything is written.
    devices = devices_of(network)
    devices.check(network, training.batch_size)
    if data.hard_negatives_per_epoch and not trainee.starts_trained:
        raise UserError("--hard_negatives_percentage needs a model that finds them: --start_from")

    # 2. The folder: one run at a time, and the same one if there is something to resume.
    identity = run_identity(trainee, data, settings, options)
    folder = claimed_folder(training.train_dir, identity) if devices.is_first else contextlib.nullcontext()
    with folder:
        # 3. The state: weights, optimiser, step and best checkpoint so far, as an earlier run left them.
        fit_momentum(network, training.total_steps)
        with devices.scope():
            state, manager = _restored_state(trainee, training)
        steps = range(int(state.step.read_value()), training.total_steps)
        rates = training.learning_rates()  # [total_steps]

        # 4. The batches, made ahead on all cores: features [batch_size, feature_count], labels [batch_size].
        batches = _batches(trainee, data, settings, options, steps, devices.rows)

        # 5. The training step, compiled, and the validation.
        objective = trainee.objective or learn_labels
        clips = training.batch_size + (trainee.added.rows if trainee.added else 0)  # of a step
        train = compiled_steps(network, state.latent, state.optimizer, clips, objective)
        if devices.is_first:
            on_microphone = training.ambient, training.false_alarms_per_hour
            validate = trainee.validate or validation(
                trainee.validated or network, data, settings, *on_microphone
            )

        for end in _validation_steps(steps, training.eval_step_interval):
            # 6. Train until the next validation.
            started, first = time.perf_counter(), int(state.step.read_value())
            loss, correct = _train_until(end, first, batches, train, rates)
            pace = (end - first) / (time.perf_counter() - started)
            state.step.assign(end)
            if not devices.is_first:
                continue

            # 7. Validate. The plain network comes first, as the validated one may get its weights from it.
            plain = trainee.plain()
            result = validate()

            # 8. Keep the plain network if it is the best so far, then the state to resume from.
            row = end, float(rates[end - 1]), loss, correct / clips, *result
            with writing(training.train_dir):
                if end >= trainee.keep_from:
                    _keep_if_best(plain, result, state, settings, training)
                write_history(training.train_dir, row)
                manager.save(end)
            log_progress(training, row, pace)


def _batches(trainee, data, settings, options, steps, rows):
    """Yield a Batch for each of `steps`, with the teacher's targets; find hard negatives first."""
    training = options.training
    if data.hard_negatives_per_epoch and steps:
        # a resumed run reads the windows that its first start found
        data = mining.with_hard_negatives(
            data, lambda: KerasModel(trainee.plain(), settings), training.train_dir, resumed=steps.start > 0
        )
    batching = Batching(training.batch_size, training.seed, steps, training.echo_factor, rows)
    batches = training_batches(
        data, options.variation, settings.front_end, batching, trainee.teacher, trainee.inputs
    )
    for step, batch in zip(steps, batches, strict=True):
        yield trainee.added.to(batch, step) if trainee.added else batch


def _validation_steps(steps, interval):
    """Return the steps after which to validate: every multiple of `interval`, and the last."""
    first = (steps.start // interval + 1) * interval
    return [*range(first, steps.stop, interval), steps.stop] if len(steps) else []


def _train_until(end, step, batches, train, rates):
    """Take the steps from `step` to `end`; return the mean loss and the mean of correct clips in a step."""
    from tqdm import tqdm

    first, loss_sum, correct_sum = step, 0.0, 0
    with tqdm(initial=step, total=end, desc="training", unit=" steps", leave=False, disable=None) as progress:
        while step < end:
            # [steps, batch_size, ...]
            taken = Batch.stack(list(itertools.islice(batches, min(STEPS_AT_ONCE, end - step))))
            count = len(taken.labels)
            loss, correct = train(rates[step : step + count], taken)
            loss_sum, correct_sum, step = loss_sum + float(loss), correct_sum + int(correct), step + count
            progress.update(count)
            stop_if_interrupted()
    if not math.isfinite(loss_sum):
        raise UserError(f"training diverged before step {end:,} (loss {loss_sum}): lower --learning_rate")
    return loss_sum / (end - first), correct_sum / (end - first)


def _keep_if_best(plain, result, state, settings, training):
    """Save the plain network in `train_dir`/best if no checkpoint before was as good as this `result`."""
    if result.is_better(float(state.best.read_value()), float(state.best_loss.read_value())):
        step, accuracy = int(state.step.read_value()), f"{10000 * result.accuracy:04.0f}"
        name = f"{settings.model_architecture}_{accuracy}.ckpt-{step}"
        keep_best(plain, settings, Path(training.train_dir) / "best", name)
        state.best.assign(result.merit)
        state.best_loss.assign(result.loss)


# ---- the training step ----


def learn_labels(logits, batch: Batch):
    """Return the loss of each clip by its label or a teacher's scores, and which are right: [batch] both."""
    predicted = tf.argmax(logits, 1, output_type=batch.labels.dtype)  # [batch]
    no_word_either = (batch.labels == NO_WORD) & (predicted <= UNKNOWN_INDEX)
    correct = (predicted == batch.labels) | no_word_either
    return losses(logits, batch), tf.cast(correct, tf.float32)


def compiled_steps(network, latent, optimizer, batch_size: int, objective=learn_labels):
    """Return the training step, compiled to take several steps at a time.

    `objective` is a function from the outputs before the last layer, and the Batch, to the loss of each clip
    and how correct the output is, 0 to 1: float32 [batch] both. The result is a function of learning rates
    [steps] and a Batch with a first axis of steps. It trains on one after the other, and returns the sums of
    the loss and of how correct the outputs are.
    """
    logits_of = keras.Model(network.input, network.layers[-1].input)  # all but the softmax

    def step(batch: Batch):
        with tf.GradientTape() as tape:
            logits = logits_of(batch.features, training=True)  # [batch, feature_count] -> [batch, labels]
            loss_of_clip, correct = objective(logits, batch)  # [batch] both
            loss = tf.reduce_sum(loss_of_clip) / batch_size
        # tfmot keeps variables that take no part, such as a kernel that its clusters stand for
        unconnected = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(loss, network.trainable_variables, unconnected_gradients=unconnected)
        # the gradients at the quantized weights move the latent ones
        optimizer.apply_gradients(zip(gradients, latent.variables_to_train, strict=True))
        latent.quantize_into_model()
        return loss, tf.reduce_sum(correct)

    step_of_all = devices_of(network).spread(step)

    @tf.function(reduce_retracing=True)
    def train(rates, batches: Batch):
        loss_sum, correct_sum = 0.0, 0.0
        for i in tf.range(tf.shape(rates)[0]):
            optimizer.learning_rate.assign(rates[i])
            loss, correct = step_of_all(batches.map(lambda part: part[i]))  # noqa: B023  (called at once)
            loss_sum, correct_sum = loss_sum + loss, correct_sum + correct
        return loss_sum, correct_sum

    return train


def losses(logits, batch: Batch):
    """Return the loss of each clip, float32 [batch], from its logits [batch, labels]."""
    label_of_score = tf.range(logits.shape[1])  # [labels]
    is_word = label_of_score > UNKNOWN_INDEX
    no_word = batch.labels == NO_WORD  # [batch]
    # cross-entropy; if silence and unknown are both right, of the sum of their scores
    right = (batch.labels[:, None] == label_of_score) | (no_word[:, None] & ~is_word)  # [batch, labels]
    of_labels = -tf.reduce_logsumexp(tf.where(right, tf.nn.log_softmax(logits), -np.inf), 1)
    if batch.targets is None:
        return of_labels
    # the teacher's logits, up to a constant, which softmax ignores
    teachers = tf.math.log(tf.maximum(batch.targets, LEAST_SCORE))
    # both softmaxes at a temperature, whose square keeps gradients as large (arXiv:1503.02531)
    softened = tf.nn.softmax(teachers / TEMPERATURE)  # [batch, labels]
    of_scores = TEMPERATURE**2 * tf.nn.softmax_cross_entropy_with_logits(softened, logits / TEMPERATURE)
    # a window holds none of the words, whatever the teacher takes it for
    return tf.where(no_word, of_labels, of_scores)


# ---- resuming ----


def _restored_state(trainee, training: TrainingOptions):
    """Return all that resuming needs, a tf.train.Checkpoint, and its manager; restored if there is one."""
    from kws.model.extensions import Muon
    from kws.model.quantizers import LatentWeights

    latent = trainee.latent or LatentWeights(trainee.network, {})
    optimizer = Muon() if training.optimizer == "muon" else keras.optimizers.Adam()
    optimizer.build(latent.variables_to_train)
    state = tf.train.Checkpoint(
        model=trainee.network,
        optimizer=optimizer,
        latent=latent,
        step=tf.Variable(0, dtype=tf.int64),
        best=tf.Variable(-1.0, dtype=tf.float64),
        best_loss=tf.Variable(np.inf, dtype=tf.float64),
    )
    folder = Path(training.train_dir) / "resume"
    delete_unfinished(folder)
    try:
        manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=1)
        if manager.latest_checkpoint:
            state.restore(manager.latest_checkpoint).assert_existing_objects_matched()
            step, total = int(state.step.read_value()), training.total_steps
            echoing = training.echo_factor > 1 and step < total
            remade = ", once the clips to be echoed are made again" if echoing else ""
            print(f"resuming after step {step:,} of {total:,}{remade}", flush=True)
    except (tf.errors.OpError, ValueError, IndexError, AssertionError) as error:
        raise UserError(
            f"{folder} is damaged or of another version; delete {training.train_dir} to start over ({error})"
        ) from None
    return state, manager
