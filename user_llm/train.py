"""The entry function `train`: start or resume a run, to its end."""

from collections.abc import Iterator, Sequence
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from user_llm import bad_steps
from user_llm import checkpoints as checkpoints_lib
from user_llm import dry_run as dry_run_lib
from user_llm import evaluator as evaluator_lib
from user_llm import host_batches
from user_llm import optimizers
from user_llm import partitioning
from user_llm import preemption
from user_llm import run_logging
from user_llm import topologies
from user_llm import train_state
from user_llm import trainer as trainer_lib
from user_llm.data import pipeline
from user_llm.objectives import objective as objective_lib

# Written when a run has reached its last step and its evaluations.
DONE_FILE = 'DONE'


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
    init_from: Sequence[checkpoints_lib.InitFrom] = (),
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    num_microbatches: int = 1,
    log_every_steps: int = 20,
    eval_every_steps: int = 0,
    save_every_steps: int = 500,
    max_bad_steps: int = 3,
    allow_data_change: bool = False,
    dry_run: bool = False,
    topology: str | None = None,
    check: bool = False,
) -> None:
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
    num_microbatches: Parts of a batch whose gradients are added up.
    log_every_steps: Between lines of metrics.jsonl.
    eval_every_steps: Between evaluations; 0: only at the end.
    save_every_steps: Between checkpoints; the last step is always saved.
    max_bad_steps: So many steps in a row whose loss or gradient is not finite,
      each of which is skipped, end the run.
    allow_data_change: Go on though the dataset's events are others than those
      of the checkpoint; the next ones say which they are.
    dry_run: Print parameters, shapes and memory, then return.
    topology: With `dry_run`, of `topologies.TOPOLOGIES`: the devices to compile
      for; None: those of this machine.
    check: See that all of it fits together, compile nothing, then return.

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
  _check_integers(0, SEED=seed, EVAL_EVERY_STEPS=eval_every_steps)
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
    )
  check_evaluators(evaluators, objective, batch_size)
  if check:
    trainer.trace_step(batch_spec)
    return
  if dry_run:
    dry_run_lib.report(trainer, batch_spec, topology)
    return

  checkpoints = checkpoints_lib.Checkpoints(workdir)
  checkpoints.undamaged_steps()
  state, identity = checkpoints_lib.restore_or_initialise(
      trainer, batch_spec, checkpoints, init_from, dataset.identity,
      same_events=not allow_data_change,
  )
  start_step = int(state.step)
  is_writer = jax.process_index() == 0
  if _is_done(workdir, start_step, num_steps, is_writer):
    return
  if is_writer:
    _write_start(workdir, state, dataset, seed)
  batches = _batches(dataset, batch_size, seed, start_step, device_mesh)
  step_fn = trainer.compile_step(state, batch_spec)
  rates = _learning_rates(optimizer, num_steps)
  bad = bad_steps.BadSteps(workdir, max_bad_steps, is_writer)
  with preemption.Watch() as watch, checkpoints, run_logging.RunLogger(
      workdir,
      num_steps=num_steps,
      start_step=start_step,
      log_every_steps=log_every_steps,
      is_writer=is_writer,
  ) as logger:
    for step in range(start_step + 1, num_steps + 1):
      batch = next(batches)
      state, scalars = step_fn(
          state, trainer.device_batch({key: batch[key] for key in batch_spec})
      )
      logger.log(step, {**scalars, 'learning_rate': rates[step - 1]})
      bad.log(step, scalars, batch)
      last = step == num_steps
      stop = watch.is_due(step) and not last
      if last or stop or step % save_every_steps == 0:
        bad.flush()
        logger.check(step, scalars)  # A step that is not finite is not saved.
        checkpoints.save(state, identity)
      if stop:
        print(f'SIGTERM: saving step {step}, the last one.', file=sys.stderr)
        sys.exit(preemption.EXIT_CODE)
      if not last and eval_every_steps and step % eval_every_steps == 0:
        _evaluate(evaluators, trainer, state, logger, step)
    evaluations = _evaluate(
        evaluators, trainer, state, logger, num_steps, full=True
    )
  if is_writer:
    for evaluation in evaluations:
      evaluation.write(workdir, num_steps, seed)
    _write_end(workdir, logger.wall_secs)


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


def _batches(
    dataset: pipeline.Dataset | pipeline.Mixture,
    batch_size: int,
    seed: int,
    start_step: int,
    mesh: jax.sharding.Mesh,
) -> Iterator[dict[str, np.ndarray]]:
  """This host's part of each batch."""
  host, num_hosts = host_batches.share(mesh)
  return dataset.train_batches(
      batch_size=batch_size,
      seed=seed,
      start_step=start_step,
      host=host,
      num_hosts=num_hosts,
  )


def _evaluate(
    evaluators: Sequence[evaluator_lib.Evaluator],
    trainer: trainer_lib.Trainer,
    state: train_state.TrainState,
    logger: run_logging.RunLogger,
    step: int,
    full: bool = False,
) -> list[evaluator_lib.Evaluation]:
  params = train_state.merge(state.trainable, state.frozen)
  evaluations = [
      evaluator.evaluate(trainer.objective, params, trainer.mesh, full=full)
      for evaluator in evaluators
  ]
  for evaluation in evaluations:
    logger.write(step, evaluation.scalars())
  return evaluations


def _write_start(
    workdir: str,
    state: train_state.TrainState,
    dataset: pipeline.Dataset | pipeline.Mixture,
    seed: int,
) -> None:
  run_logging.write_run_info(
      workdir,
      seed=seed,
      num_params=_count((state.trainable, state.frozen)),
      num_trainable=_count(state.trainable),
      split_rule=dataset.split_rule.name,
      split_fingerprint=dataset.fingerprint,
  )


def _write_end(workdir: str, wall_secs: float) -> None:
  run_logging.write_run_info(
      workdir,
      finished=run_logging.timestamp(),
      wall_secs=round(wall_secs, 1),
  )
  (pathlib.Path(workdir) / DONE_FILE).touch()


def _learning_rates(
    optimizer: optimizers.AdamW, num_steps: int
) -> np.ndarray:
  """f32[num_steps], at once: one by one they would slow small steps down."""
  schedule = jax.jit(optimizer.schedule(num_steps))
  return np.asarray(schedule(np.arange(num_steps)))


def _is_done(
    workdir: str, step: int, num_steps: int, is_writer: bool
) -> bool:
  """Whether nothing is left to do; raises ValueError if it is past its end."""
  if step > num_steps:
    raise ValueError(
        f'{workdir} is at step {step}, past NUM_STEPS={num_steps}: give '
        'another --workdir.'
    )
  done = pathlib.Path(workdir) / DONE_FILE
  if step < num_steps:
    done.unlink(missing_ok=True)  # The run goes on to a later last step.
  (is_done,) = hosts.agreed([done.exists()])
  if is_done and is_writer:
    print(f'{workdir} is at its last step, {step}: nothing to do.')
  return bool(is_done)


def _count(params: Any) -> int:
  return sum(x.size for x in jax.tree.leaves(params))


def check_evaluators(
    evaluators: Sequence[evaluator_lib.Evaluator],
    objective: objective_lib.Objective,
    batch_size: int,
) -> None:
  """Raises ValueError where one cannot measure the objective."""
  for evaluator in evaluators:
    evaluator.check(objective, batch_size)


def _check_integers(minimum: int, **values: int) -> None:
  for name, value in values.items():
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < minimum:
      raise ValueError(
          f'{name} must be an integer of at least {minimum}, not {value!r}.'
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
