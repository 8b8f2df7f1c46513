"""Where a run's parameters come from, when it starts and when it is read."""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import re
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from user_llm import checkpoints as checkpoints_lib
from user_llm import compatibility
from user_llm import optimizers
from user_llm import partitioning
from user_llm import train_state
from user_llm import trainer as trainer_lib
from user_llm.data import pipeline
from user_llm.objectives import objective as objective_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitFrom:
  """Parameters to take from another workdir's newest checkpoint.

  Attributes:
    path: The other workdir.
    prefix: Path of the subtree, the same in both: 'encoder'.
    new: Regexes of parameters under the prefix that start anew because the
      other run has none of them, such as gates and cross-attention.
  """

  path: str
  prefix: str
  new: tuple[str, ...] = ()

  def load(
      self, params: Mapping[str, Any], identity: Mapping[str, str]
  ) -> dict[str, np.ndarray]:
    """Values for the parameters (by path) that are to be taken.

    Raises:
      ValueError: no checkpoint there, other data, left-over or missing keys.
    """
    checkpoints = checkpoints_lib.Checkpoints(self.path)
    steps = checkpoints.steps()
    if not steps:
      raise ValueError(
          f'INIT_FROM {self.prefix!r}: no checkpoint in {self.path}; it must '
          'be the workdir of a run that has saved one.'
      )
    with checkpoints.pinned(steps[-1]):  # Its run may go on, and delete it.
      if steps[-1] in checkpoints.steps():
        return self._load(checkpoints, steps[-1], params, identity)
    return self.load(params, identity)

  def _load(
      self,
      checkpoints: checkpoints_lib.Checkpoints,
      step: int,
      params: Mapping[str, Any],
      identity: Mapping[str, str],
  ) -> dict[str, np.ndarray]:
    checkpoints.check_files(step)
    meaning = {k: v for k, v in identity.items() if k != 'events'}
    compatibility.check_identity(
        checkpoints.metadata(step), meaning, self.path
    )
    inside = f'{self.prefix}/'
    if not any(path.startswith(inside) for path in params):
      parts = sorted({path.split('/')[0] for path in params})
      raise ValueError(
          f'INIT_FROM {self.prefix!r}: MODEL has nothing there; its parameters '
          f'start with {", ".join(parts)}.'
      )
    found = {
        path: value
        for path, value in checkpoints.load_params(step).items()
        if path.startswith(inside)
    }
    wanted = {
        path: value
        for path, value in params.items()
        if path.startswith(inside)
        and not any(re.match(regex, path) for regex in self.new)
    }
    compatibility.check_same_keys(
        found, wanted, f'{self.path} (INIT_FROM new={self.new})'
    )
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedRun:
  """What reads a workdir must know of the run of `train` that made it.

  Attributes:
    objective: What was trained.
    dataset: What it was trained on.
    optimizer: What it was trained with.
    num_steps: How long.
    batch_size: Rows a step.
    seed: Of the run.
    trainable: Path regexes.
    init_from: Where frozen parameters come from.
    mesh: Sizes of the mesh axes; they may be others than in training.
  """

  objective: objective_lib.Objective
  dataset: pipeline.Dataset | pipeline.Mixture
  optimizer: optimizers.AdamW
  num_steps: int
  batch_size: int
  seed: int = 0
  trainable: Sequence[str] = ('.*',)
  init_from: Sequence[InitFrom] = ()
  mesh: partitioning.MeshConfig = partitioning.MeshConfig()

  def params(
      self,
      workdir: str,
      mesh: jax.sharding.Mesh,
      step: int | None = None,
      same_events: bool = False,
  ) -> Any:
    """Restores the parameters of a checkpoint onto a mesh.

    Args:
      workdir: Of the run.
      mesh: Where the parameters go: what `self.mesh` makes.
      step: Of the checkpoint; None: the newest.
      same_events: Whether the dataset's events must be those that it was
        trained on, not only its items.

    Raises:
      ValueError: no checkpoint, or not of this objective or this data.
    """
    checkpoints = checkpoints_lib.Checkpoints(workdir)
    if not checkpoints.steps():
      raise ValueError(
          f'--workdir={workdir} has no finished checkpoint; train it first.'
      )
    trainer = trainer_lib.Trainer(
        objective=self.objective,
        optimizer=self.optimizer.make(self.num_steps),
        mesh=mesh,
        trainable=self.trainable,
        seed=self.seed,
    )
    batch_spec = trainer_lib.select_batch(
        self.dataset.batch_spec('train', self.batch_size),
        self.objective.batch_keys,
    )
    step = checkpoints.steps()[-1] if step is None else step
    with checkpoints.pinned(step):
      state, _ = restore_or_initialise(
          trainer,
          batch_spec,
          checkpoints,
          self.init_from,
          self.dataset.identity,
          step,
          same_events,
          only_params=True,
      )
    return train_state.merge(state.trainable, state.frozen)


def digest(params: Mapping[str, Any]) -> str:
  """16 hex digits of a SHA-256 over frozen parameters by path.

  A run that goes on elsewhere has the same: some devices hold them rounded.
  All processes must ask: one after the other, they gather what they share.
  """
  sha = hashlib.sha256()
  for path, value in sorted(params.items()):
    sha.update(path.encode())
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
      value = multihost_utils.process_allgather(value, tiled=True)
    value = train_state.rounded(path, jax.device_get(value), jnp.bfloat16)
    sha.update(np.ascontiguousarray(value).tobytes())
  return sha.hexdigest()[:16]


def placed(value: np.ndarray | jax.Array, like: Any) -> jax.Array:
  """A value of `InitFrom.load` in the place of a parameter.

  On the host it takes the sharding and dtype of the parameter (or its shape); a
  JAX array has them.
  """
  if isinstance(value, jax.Array):
    return value
  return jax.make_array_from_callback(
      like.shape, like.sharding, lambda index: value[index].astype(like.dtype)
  )


def restore_or_initialise(
    trainer: Any,
    batch_spec: Mapping[str, Any],
    checkpoints: checkpoints_lib.Checkpoints,
    init_from: Sequence[InitFrom],
    identity: Mapping[str, str],
    step: int | None = None,
    same_events: bool = True,
    only_params: bool = False,
) -> tuple[train_state.TrainState, dict[str, str]]:
  """The state that a run starts from, and its identity to save.

  Where a parameter comes from: (1) the workdir's own checkpoint, which has the
  trainable ones, the optimizer and the step, if there is one; (2) INIT_FROM;
  (3) scratch. Each is made once.

  Args:
    trainer: A `trainer.Trainer`.
    batch_spec: Shapes of a batch, for the initialisation.
    checkpoints: Of this run's workdir.
    init_from: What to take from other workdirs.
    identity: Digests of the data and the vocabulary.
    step: Of the checkpoint; None: the newest.
    same_events: Whether the checkpoint must be of the very same events.
    only_params: Of a checkpoint, which there must be: see
      `Checkpoints.restore`.

  Raises:
    ValueError: the checkpoint is of another model, vocabulary or other data;
      nothing was read or computed yet.
  """
  steps = checkpoints.steps()
  if step is not None and step not in steps:
    raise ValueError(f'No checkpoint of step {step}; there are {steps}.')
  state = trainer.abstract_state(batch_spec)
  if steps:
    step = steps[-1] if step is None else step
    checkpoints.check_files(step)
    _check_fits(checkpoints, step, state, identity, same_events)
  flat = train_state.flatten(train_state.merge(state.trainable, state.frozen))
  values: dict[str, np.ndarray | jax.Array] = {}
  frozen = train_state.flatten(state.frozen)
  wanted = frozen if steps else flat
  for source in init_from:
    inside = f'{source.prefix}/'
    # What only trains is in the checkpoint: its source may be gone.
    if not steps or any(path.startswith(inside) for path in wanted):
      values.update(source.load(flat, identity))
  params = {
      path: placed(values.pop(path), like)
      for path, like in wanted.items()
      if path in values
  }
  values.clear()  # What is left over is in the checkpoint.
  params |= trainer.init_params(batch_spec, wanted.keys() - params.keys())
  identity = dict(identity)
  if frozen:
    identity['frozen'] = digest({path: params[path] for path in frozen})
  if not steps:
    return trainer.start_state(state, params), identity
  frozen_only = {k: v for k, v in identity.items() if k == 'frozen'}
  compatibility.check_identity(
      checkpoints.metadata(step), frozen_only, f'step {step}'
  )
  state = checkpoints.restore(step, state, only_params)
  return state._replace(frozen=train_state.unflatten(params)), identity


def _check_fits(
    checkpoints: checkpoints_lib.Checkpoints,
    step: int,
    state: train_state.TrainState,
    identity: Mapping[str, str],
    same_events: bool,
) -> None:
  """Checks all that can be before a device computes or a weight is read."""
  saved = checkpoints.metadata(step)
  if not same_events and saved.get('events') != identity.get('events'):
    print(
        f'Step {step} was made with events {saved.get("events")}; now they are '
        f'{identity.get("events")}.',
        file=sys.stderr,
    )
    identity = {k: v for k, v in identity.items() if k != 'events'}
  compatibility.check_identity(saved, identity, f'step {step}')
  checkpoints.check_structure(step, state)
