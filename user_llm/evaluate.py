"""The entry function `evaluate`: measure the checkpoints of a workdir."""

from collections.abc import Sequence
import pathlib
import time
from typing import Any

import jax

from user_llm import checkpoints as checkpoints_lib
from user_llm import evaluator as evaluator_lib
from user_llm import optimizers
from user_llm import partitioning
from user_llm import restore
from user_llm import train as train_lib
from user_llm import training_run
from user_llm.data import pipeline
from user_llm.objectives import objective as objective_lib
from user_llm.runtime import hosts


def evaluate(
    *,
    workdir: str,
    objective: objective_lib.Objective,
    dataset: pipeline.Dataset | pipeline.Mixture,
    optimizer: optimizers.AdamW,
    num_steps: int,
    batch_size: int,
    evaluators: Sequence[evaluator_lib.Evaluator],
    seed: int = 0,
    trainable: Sequence[str] = ('.*',),
    init_from: Sequence[checkpoints_lib.InitFrom] = (),
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    step: int | None = None,
    follow: bool = False,
    poll_secs: float = 10.0,
    allow_data_change: bool = False,
) -> None:
  """Writes eval/<task>/<step>.json for one checkpoint, or for all to come.

  Args:
    workdir: Of a run of `train`.
    objective: As it was trained.
    dataset: As it was trained on.
    optimizer: As it was trained with.
    num_steps: As it was trained for; `follow` ends with that checkpoint.
    batch_size: As it was trained with.
    evaluators: What to measure.
    seed: As it was trained with; stands beside the figures.
    trainable: As it was trained with.
    init_from: Where the frozen parameters are.
    mesh: Sizes of the mesh axes.
    step: Of the checkpoint; None: the newest.
    follow: Go on with each new checkpoint until the run is done.
    poll_secs: Between looks for a new checkpoint.
    allow_data_change: Measure on other events than it was trained on, which it
      may have seen.

  Raises:
    ValueError: no checkpoint, or it does not fit the objective or the data.
  """
  if not evaluators:
    raise ValueError('EVALUATORS is empty: nothing to evaluate.')
  train_lib.check_evaluators(evaluators, objective, batch_size)
  device_mesh = mesh.make()
  checkpoints = checkpoints_lib.Checkpoints(workdir)
  for found in _steps(workdir, step, follow, num_steps, poll_secs):
    with checkpoints.pinned(found):
      if follow and found not in checkpoints.steps():
        continue  # It went before it was pinned.
      params = restore.params(
          workdir=workdir,
          objective=objective,
          dataset=dataset,
          optimizer=optimizer,
          num_steps=num_steps,
          batch_size=batch_size,
          seed=seed,
          trainable=trainable,
          init_from=init_from,
          mesh=device_mesh,
          step=found,
          same_events=not allow_data_change,
      )
      for evaluator in evaluators:
        evaluation = evaluator.evaluate(objective, params, device_mesh)
        if jax.process_index() == 0:
          _print(evaluation, evaluation.write(workdir, found, seed))


def _steps(
    workdir: str,
    step: int | None,
    follow: bool,
    num_steps: int,
    poll_secs: float,
) -> Any:
  """The steps to evaluate, as they appear."""
  if not follow:
    steps = checkpoints_lib.Checkpoints(workdir).steps()
    yield steps[-1] if step is None and steps else step
    return
  done: set[int] = set()
  while True:
    done_file = pathlib.Path(workdir) / training_run.DONE_FILE
    (finished,) = hosts.agreed([done_file.exists()])
    steps = checkpoints_lib.Checkpoints(workdir).steps()
    # One at a time: others may be deleted while it is evaluated.
    new = next((s for s in steps if s not in done), None)
    if new is not None:
      done.add(new)
      yield new
    elif finished or num_steps in done:
      return
    else:
      time.sleep(poll_secs)


def _print(evaluation: evaluator_lib.Evaluation, path: pathlib.Path) -> None:
  print(
      f'{evaluation.task} {evaluation.split}: n={evaluation.num_examples}, '
      f'{evaluation.split_rule}, split {evaluation.split_fingerprint} -> {path}'
  )
  for row, values in evaluation.models.items():
    text = '  '.join(
        f'{name} {value.mean:.4f}±{value.stderr:.4f}'
        for name, value in values.items()
    )
    print(f'  {row:16} {text}')
