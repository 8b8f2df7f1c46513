"""The parameters of a trained workdir, for the entry functions that read."""

from collections.abc import Sequence
from typing import Any

import jax

from user_llm import checkpoints as checkpoints_lib
from user_llm import optimizers
from user_llm import train_state
from user_llm import trainer as trainer_lib
from user_llm.data import pipeline
from user_llm.objectives import objective as objective_lib


def params(
    *,
    workdir: str,
    objective: objective_lib.Objective,
    dataset: pipeline.Dataset | pipeline.Mixture,
    optimizer: optimizers.AdamW,
    num_steps: int,
    batch_size: int,
    seed: int,
    trainable: Sequence[str],
    init_from: Sequence[checkpoints_lib.InitFrom],
    mesh: jax.sharding.Mesh,
    step: int | None = None,
    same_events: bool = False,
) -> Any:
  """Restores the parameters of a checkpoint onto a mesh.

  Args:
    workdir: Of a run of `train`, whose arguments the following are.
    objective: What was trained.
    dataset: What it was trained on.
    optimizer: What it was trained with.
    num_steps: How long.
    batch_size: Rows a step.
    seed: Of the run.
    trainable: Path regexes.
    init_from: Where frozen parameters come from.
    mesh: Where the parameters go.
    step: Of the checkpoint; None: the newest.
    same_events: Whether the dataset's events must be those that it was trained
      on, not only its items.

  Raises:
    ValueError: no checkpoint, or not of this objective or this data.
  """
  checkpoints = checkpoints_lib.Checkpoints(workdir)
  if not checkpoints.steps():
    raise ValueError(
        f'--workdir={workdir} has no finished checkpoint; train it first.'
    )
  trainer = trainer_lib.Trainer(
      objective=objective,
      optimizer=optimizer.make(num_steps),
      mesh=mesh,
      trainable=trainable,
      seed=seed,
  )
  batch_spec = trainer_lib.select_batch(
      dataset.batch_spec('train', batch_size), objective.batch_keys
  )
  state, _ = checkpoints_lib.restore_or_initialise(
      trainer,
      batch_spec,
      checkpoints,
      init_from,
      dataset.identity,
      step,
      same_events,
  )
  return train_state.merge(state.trainable, state.frozen)
