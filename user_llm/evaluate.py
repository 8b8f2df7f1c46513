"""The entry function `evaluate`: measure the checkpoints of a workdir."""

from collections.abc import Sequence
import pathlib
import time
from typing import Any

import jax

from user_llm import checkpoints as checkpoints_lib
from user_llm import evaluator as evaluator_lib
from user_llm import restore
from user_llm import train as train_lib
from user_llm import training_run
from user_llm.runtime import hosts


def evaluate(
    *,
    workdir: str,
    run: restore.TrainedRun,
    evaluators: Sequence[evaluator_lib.Evaluator],
    step: int | None = None,
    follow: bool = False,
    poll_secs: float = 10.0,
    allow_data_change: bool = False,
) -> None:
  """Writes eval/<task>/<step>.json for one checkpoint, or for all to come.

  Args:
    workdir: Of a run of `train`.
    run: How the workdir was made; `follow` ends with its last step.
    evaluators: What to measure.
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
  train_lib.check_evaluators(evaluators, run.objective, run.batch_size)
  device_mesh = run.mesh.make()
  checkpoints = checkpoints_lib.Checkpoints(workdir)
  for found in _steps(workdir, step, follow, run.num_steps, poll_secs):
    with checkpoints.pinned(found):
      if follow and found not in checkpoints.steps():
        continue  # It went before it was pinned.
      params = run.params(
          workdir, device_mesh, found, same_events=not allow_data_change
      )
      for evaluator in evaluators:
        evaluation = evaluator.evaluate(run.objective, params, device_mesh)
        if jax.process_index() == 0:
          _print(evaluation, evaluation.write(workdir, found, run.seed))


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
