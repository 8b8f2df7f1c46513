"""The entry function `train`: start or resume a run, to its end."""

from collections.abc import Sequence
import math

import jax
import numpy as np

from user_llm import checkpoints as checkpoints_lib
from user_llm import dry_run as dry_run_lib
from user_llm import evaluator as evaluator_lib
from user_llm import optimizers
from user_llm import partitioning
from user_llm import restore
from user_llm import topologies
from user_llm import trainer as trainer_lib
from user_llm import training_run
from user_llm.data import pipeline
from user_llm.objectives import objective as objective_lib
from user_llm.runtime import bad_steps
from user_llm.runtime import hosts
from user_llm.runtime import preemption
from user_llm.runtime import profiling


def train(
    *,
    workdir: str,
    objective: objective_lib.Objective,
    dataset: pipeline.Dataset | pipeline.Mixture,
    optimizer: optimizers.AdamW,
    num_steps: int,
    batch_size: int,
    seed: int = 0,
    evaluators: Sequence[evaluator_lib.Evaluator] = (),
    trainable: Sequence[str] = ('.*',),
    init_from: Sequence[restore.InitFrom] = (),
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    num_microbatches: int = 1,
    log_every_steps: int = 20,
    eval_every_steps: int = 0,
    save_every_steps: int = 500,
    profile_steps: tuple[int, int] | None = None,
    max_bad_steps: int = 3,
    max_rollbacks: int = 2,
    spike_threshold: float | None = None,
    hang_secs: float = 1800.0,
    deadline: float | None = None,
    allow_data_change: bool = False,
    dry_run: bool = False,
    topology: str | None = None,
    check: bool = False,
) -> bool:
  """Trains until `num_steps`, from the workdir's last checkpoint if it has one.

  On SIGTERM it saves after the step that it is in and exits with
  `preemption.EXIT_CODE`.

  Args:
    workdir: Receives checkpoints, metrics.jsonl, TensorBoard events, run.json,
      eval/<task>/<step>.json and, at the end, DONE.
    objective: What to train.
    dataset: Its examples.
    optimizer: AdamW and its schedule.
    num_steps: Optimizer steps.
    batch_size: Rows a step, over all hosts.
    seed: Of the initialisation, the data's order and the dropout.
    evaluators: Run on the validation split every `eval_every_steps` steps and,
      with floors and examples, at the end.
    trainable: Path regexes; the first that matches decides ('!' freezes).
    init_from: Parameters to take from other workdirs.
    mesh: Sizes of the mesh axes.
    num_microbatches: Parts of a batch whose gradients are added up; those of a
      `Contrastive` have their negatives among themselves.
    log_every_steps: Between lines of metrics.jsonl.
    eval_every_steps: Between evaluations; 0: only at the end.
    save_every_steps: Between checkpoints; the last step is always saved.
    profile_steps: The first and the last step whose profile is written to the
      workdir's `profile`; None: none.
    max_bad_steps: So many steps in a row whose loss or gradient is not finite,
      or whose loss is a spike, each of which is skipped, send the run back to
      its last checkpoint before them, without the batches since.
    max_rollbacks: How often; then the run ends.
    spike_threshold: A loss is a spike so many standard deviations (of their
      median absolute deviation) above the last 128; None: none is.
    hang_secs: A process without a step or a batch of an evaluation for so long
      shows its stacks and ends with `watchdog.EXIT_CODE`; 0: it waits forever.
    deadline: On the clock `time.monotonic`: when this process will be killed;
      it saves and exits before, as on SIGTERM.
    allow_data_change: Go on though the dataset's events are others than those
      of the checkpoint; the next ones say which they are.
    dry_run: Print parameters, shapes and memory, then return.
    topology: With `dry_run`, of `topologies.TOPOLOGIES`: the devices to compile
      for; None: those of this machine.
    check: See that all of it fits together, compile nothing, then return.

  Returns:
    False if the workdir was at its end: nothing was done.

  Raises:
    ValueError: what was asked for does not fit together; nothing is written.
  """
  _check_integers(
      1,
      NUM_STEPS=num_steps,
      BATCH_SIZE=batch_size,
      num_microbatches=num_microbatches,
      LOG_EVERY_STEPS=log_every_steps,
      SAVE_EVERY_STEPS=save_every_steps,
      MAX_BAD_STEPS=max_bad_steps,
  )
  _check_integers(
      0,
      SEED=seed,
      EVAL_EVERY_STEPS=eval_every_steps,
      MAX_ROLLBACKS=max_rollbacks,
  )
  _check_number(0, HANG_SECS=hang_secs)
  profiling.check_steps(profile_steps, num_steps)
  if spike_threshold is not None:
    _check_number(1, SPIKE_THRESHOLD=spike_threshold)
  device_mesh = mesh.make(topology and topologies.devices(topology))
  _check_divisible(batch_size, device_mesh, num_microbatches)
  batch_spec = _batch_spec(objective, dataset, batch_size)
  with jax.set_mesh(device_mesh):
    trainer = trainer_lib.Trainer(
        objective=objective,
        optimizer=optimizer.make(num_steps),
        mesh=device_mesh,
        trainable=trainable,
        num_microbatches=num_microbatches,
        seed=seed,
        spike_threshold=spike_threshold,
    )
  check_evaluators(evaluators, objective, batch_size)
  if check:
    trainer.trace_step(batch_spec)
    return True
  if dry_run:
    dry_run_lib.report(trainer, batch_spec, topology)
    return True

  hosts.introduce(data=_identity_text(dataset))
  is_writer = jax.process_index() == 0
  run = training_run.TrainingRun(
      workdir=workdir,
      trainer=trainer,
      dataset=dataset,
      batch_spec=batch_spec,
      learning_rates=_learning_rates(optimizer, num_steps),
      num_steps=num_steps,
      batch_size=batch_size,
      evaluators=evaluators,
      init_from=init_from,
      log_every_steps=log_every_steps,
      eval_every_steps=eval_every_steps,
      save_every_steps=save_every_steps,
      profile_steps=profile_steps,
      max_bad_steps=max_bad_steps,
      hang_secs=hang_secs,
      same_events=not allow_data_change,
      checkpoints=checkpoints_lib.Checkpoints(workdir),
      rollbacks=bad_steps.Rollbacks(workdir, max_rollbacks, is_writer),
      is_writer=is_writer,
  )
  run.checkpoints.undamaged_steps()
  # One for all that follows: going back must not forget a signal.
  with preemption.Watch(deadline) as watch:
    while (end := run.gets_to_its_end(watch)) is training_run.End.WENT_BACK:
      pass
  return end is training_run.End.TRAINED


def _identity_text(dataset: pipeline.Dataset | pipeline.Mixture) -> str:
  found = {**dataset.identity, 'split': dataset.fingerprint}
  return '\n'.join(f'{name} {digest}' for name, digest in found.items())


def _batch_spec(
    objective: objective_lib.Objective,
    dataset: pipeline.Dataset | pipeline.Mixture,
    batch_size: int,
) -> dict[str, jax.ShapeDtypeStruct]:
  batch_spec = trainer_lib.select_batch(
      dataset.batch_spec('train', batch_size), objective.batch_keys
  )
  if 'input_tokens' in batch_spec:
    num_tokens = batch_spec['input_tokens'].shape[-1]
    objective_lib.check_length(
        objective, num_tokens, dataset.name, dataset.history_length
    )
  return batch_spec


def _learning_rates(
    optimizer: optimizers.AdamW, num_steps: int
) -> np.ndarray:
  """f32[num_steps], at once: one by one they would slow small steps down."""
  schedule = jax.jit(optimizer.schedule(num_steps))
  return np.asarray(schedule(np.arange(num_steps)))


def check_evaluators(
    evaluators: Sequence[evaluator_lib.Evaluator],
    objective: objective_lib.Objective,
    batch_size: int,
) -> None:
  """Raises ValueError where one cannot measure the objective."""
  hash(objective)  # As jit does: an evaluation would fail, after the training.
  for evaluator in evaluators:
    evaluator.check(objective, batch_size)


def _check_integers(minimum: int, **values: int) -> None:
  for name, value in values.items():
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < minimum:
      raise ValueError(
          f'{name} must be an integer of at least {minimum}, not {value!r}.'
      )


def _check_number(minimum: float, **values: float) -> None:
  for name, value in values.items():
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not minimum <= value < math.inf:
      raise ValueError(
          f'{name} must be a number of at least {minimum}, not {value!r}.'
      )


def _check_divisible(
    batch_size: int, mesh: jax.sharding.Mesh, num_microbatches: int
) -> None:
  rows = mesh.shape['replica'] * mesh.shape['data']
  if batch_size % (rows * num_microbatches):
    raise ValueError(
        f'BATCH_SIZE={batch_size} is not divisible by {rows} (replica x data) '
        f'x {num_microbatches} (num_microbatches).'
    )
