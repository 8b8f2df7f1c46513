"""Save, resume and initialise; the only file that knows Orbax.

A checkpoint holds the trainable parameters, the optimizer's memory, the step,
and what it was trained on. Frozen parameters are read again from their source
(INIT_FROM), whose digest is in the checkpoint.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import pathlib
import re
import sys
import threading
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from user_llm import checkpoint_files
from user_llm import compatibility
from user_llm import host_batches
from user_llm import train_state

_FOLDER = 'checkpoints'
_POLL_SECS = 0.01


def _warn(text: str) -> None:
  if jax.process_index() == 0:
    print(f'warning: {text}', file=sys.stderr, flush=True)


class Checkpoints:
  """The checkpoints of one workdir.

  Only steps that are whole are seen, see `checkpoint_files`. As a context
  manager it waits at the end, after an error too, for what is being saved. All
  processes must make one and ask it the same.

  Args:
    workdir: They are in its folder `checkpoints`.
    keep: How many of the newest to keep.
  """

  def __init__(self, workdir: str, keep: int = 2):
    self._path = pathlib.Path(workdir).absolute() / _FOLDER
    self._keep = keep
    # Opened late: to look into a workdir must not make a folder there.
    (exists,) = hosts.agreed([self._path.is_dir()])
    self._manager = self._open(create=False) if exists else None
    self._sealer: threading.Thread | None = None
    # Steps whose files were read already.
    self._verified: set[int] = set()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *unused: Any) -> None:
    self.wait()

  def _open(self, create: bool) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        self._path,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=self._keep, create=create
        ),
        item_handlers={
            'params': ocp.StandardCheckpointHandler(),
            'rest': ocp.StandardCheckpointHandler(),
            'metadata': ocp.JsonCheckpointHandler(),
        },
    )

  def steps(self) -> list[int]:
    """Steps with a finished checkpoint, oldest first, as process 0 sees them.
    """
    if self._manager is None:
      return []
    self._manager.reload()
    found = sorted(self._manager.all_steps())
    whole = [s for s in found if checkpoint_files.is_whole(self._folder(s))]
    for step in sorted(set(found) - set(whole)):
      _warn(f'{self._folder(step)} is no checkpoint: ignored.')
    return hosts.agreed(whole)

  def _folder(self, step: int) -> pathlib.Path:
    return self._path / str(step)

  def check_files(self, step: int) -> None:
    """Raises ValueError if a step's files are not those that were written."""
    if step in self._verified:
      return
    found = checkpoint_files.damages(self._folder(step))
    self._verified.add(step)
    if found:
      raise ValueError(
          f'The checkpoint {self._folder(step)} is damaged: {"; ".join(found)}. '
          'Give another step (STEP), or start the training again: it sets this '
          'one aside and goes on from the one before.'
      )

  def undamaged_steps(self) -> list[int]:
    """As `steps`; damaged ones at the end are set aside first, and told.

    Only for who trains here: others may be reading. What is no checkpoint is
    set aside too: Orbax would count it among the newest, which are kept.
    """
    steps = self.steps()
    if self._manager is not None and jax.process_index() == 0:
      for step in set(self._manager.all_steps()) - set(steps):
        aside = checkpoint_files.set_aside(self._folder(step), 'foreign')
        _warn(f'it is now {aside}.')
    while steps:
      folder = self._folder(steps[-1])
      good = True
      if jax.process_index() == 0:
        found = checkpoint_files.damages(folder)
        if found:
          good = False
          aside = checkpoint_files.set_aside(folder, 'damaged')
          _warn(
              f'the checkpoint of step {steps[-1]} is damaged: '
              f'{"; ".join(found)}. It is now {aside}; the one before is used.'
          )
      if jax.process_count() > 1:
        good = bool(multihost_utils.broadcast_one_to_all(np.array(good)))
      if good:
        self._verified.add(steps[-1])
        break
      steps.pop()
    return self.steps()

  def save(
      self, state: train_state.TrainState, identity: Mapping[str, str]
  ) -> None:
    """Starts to save; the state may be donated as soon as this returns."""
    if self._manager is None:
      self._manager = self._open(create=True)
    self._join_sealer()
    step = int(state.step)
    self._manager.save(
        step,
        args=ocp.args.Composite(
            params=ocp.args.StandardSave(state.trainable),
            rest=ocp.args.StandardSave(
                {'step': state.step, 'opt_state': state.opt_state}
            ),
            metadata=ocp.args.JsonSave(dict(identity)),
        ),
    )
    if jax.process_index() == 0:
      self._sealer = threading.Thread(target=self._seal, args=[step])
      self._sealer.start()

  def _seal(self, step: int) -> None:
    """Waits until a step is finished, then writes its manifest."""
    folder = self._folder(step)
    while not folder.is_dir():
      if not self._manager.is_saving_in_progress():
        break  # It has failed, or ends between the two questions.
      time.sleep(_POLL_SECS)
    if folder.is_dir():
      checkpoint_files.seal(folder)

  def _join_sealer(self) -> None:
    if self._sealer is not None:
      self._sealer.join()
      self._sealer = None

  def wait(self) -> None:
    """Returns when all that was saved is on disk; raises if it is not."""
    if self._manager is not None:
      self._manager.wait_until_finished()
      self._join_sealer()

  def metadata(self, step: int) -> dict[str, str]:
    return self._manager.restore(
        step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore())
    )['metadata']

  def check_structure(self, step: int, state: train_state.TrainState) -> None:
    """Raises ValueError if a step has other parameters than (abstract) `state`.
    """
    saved = self._manager.item_metadata(step)['params'].tree
    compatibility.check_same_keys(
        train_state.flatten(saved),
        train_state.flatten(state.trainable),
        f'{self._path}/{step}',
    )

  def restore(
      self, step: int, state: train_state.TrainState
  ) -> train_state.TrainState:
    """The checkpoint of a step onto the shardings of (abstract) `state`.

    Raises:
      ValueError: its parameters have other names or shapes than `state`'s.
    """
    self.check_structure(step, state)
    rest = {'step': state.step, 'opt_state': state.opt_state}
    restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
            params=ocp.args.StandardRestore(state.trainable),
            rest=ocp.args.StandardRestore(rest),
        ),
    )
    return state._replace(
        trainable=restored['params'],
        step=restored['rest']['step'],
        opt_state=restored['rest']['opt_state'],
    )

  def load_params(self, step: int) -> dict[str, np.ndarray]:
    """The trainable parameters of a step, on the host, by path."""
    saved = self._manager.item_metadata(step)['params'].tree
    as_numpy = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), saved)
    restored = self._manager.restore(
        step,
        args=ocp.args.Composite(params=ocp.args.StandardRestore(as_numpy)),
    )
    return train_state.flatten(restored['params'])


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
    checkpoints = Checkpoints(self.path)
    steps = checkpoints.steps()
    if not steps:
      raise ValueError(
          f'INIT_FROM {self.prefix!r}: no checkpoint in {self.path}; it must '
          'be the workdir of a run that has saved one.'
      )
    checkpoints.check_files(steps[-1])
    meaning = {k: v for k, v in identity.items() if k != 'events'}
    compatibility.check_identity(
        checkpoints.metadata(steps[-1]), meaning, self.path
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
        for path, value in checkpoints.load_params(steps[-1]).items()
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


def digest(params: Mapping[str, Any]) -> str:
  """16 hex digits of a SHA-256 over frozen parameters by path.

  A run that goes on elsewhere has the same: some devices hold them rounded.
  """
  sha = hashlib.sha256()
  for path, value in sorted(params.items()):
    sha.update(path.encode())
    value = train_state.rounded(path, jax.device_get(value), jnp.bfloat16)
    sha.update(np.ascontiguousarray(value).tobytes())
  return sha.hexdigest()[:16]


def placed(value: np.ndarray | jax.Array, like: Any) -> jax.Array:
  """A value as `InitFrom.load` gives it, in the place of a parameter.

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
    checkpoints: Checkpoints,
    init_from: Sequence[InitFrom],
    identity: Mapping[str, str],
    step: int | None = None,
    same_events: bool = True,
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
  for source in init_from:
    values.update(source.load(flat, identity))
  frozen = train_state.flatten(state.frozen)
  wanted = frozen if steps else flat
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
  state = checkpoints.restore(step, state)
  return state._replace(frozen=train_state.unflatten(params)), identity


def _check_fits(
    checkpoints: Checkpoints,
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
