"""Save and load; the only file that knows Orbax.

A checkpoint holds the trainable parameters, the optimizer's memory, the step,
and what it was trained on. Frozen parameters are read again from their source
(INIT_FROM), whose digest is in the checkpoint: see `restore`.
"""

from collections.abc import Mapping
import contextlib
import pathlib
import sys
import threading
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as preservation_policy

from user_llm import checkpoint_files
from user_llm import compatibility
from user_llm import train_state
from user_llm.runtime import hosts
from user_llm.runtime import lease

_FOLDER = 'checkpoints'
_POLL_SECS = 0.01
# A run whose checkpoints fail so often in a row ends.
_MAX_FAILURES = 3
# Of a process of several that cannot save: started again, all go on together.
EXIT_CODE = 47


class UnsavedError(ValueError):
  """One process of several cannot save; started again they may."""

  exit_code = EXIT_CODE


def _warn(text: str) -> None:
  if jax.process_index() == 0:
    print(f'warning: {text}', file=sys.stderr, flush=True)


class Checkpoints:
  """The checkpoints of one workdir.

  Only steps that are whole are seen, see `checkpoint_files`. As a context
  manager it waits at the end, after an error too, for what is being saved. All
  processes must make one and ask it the same.

  A save that fails is told at the next step and tried again there; the run ends
  when several in a row have failed, or if it ends without having saved. Several
  processes end at once, with an exit code after which `launch` starts them
  again: they cannot agree on more.

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
    self._failures = 0
    self._failure = ''
    # Steps whose files were read already.
    self._verified: set[int] = set()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, exc_type: type[BaseException] | None, *unused: Any):
    try:
      self.wait()
    except Exception as error:  # pylint: disable=broad-exception-caught
      if exc_type is None:
        raise
      _warn(f'the last checkpoint was not saved: {error}')

  def _open(
      self, create: bool, is_writer: bool = False
  ) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        self._path,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy([
                preservation_policy.LatestN(self._keep),
                checkpoint_files.PinnedSteps(self._path),
            ]),
            create=create,
            # Of saves that were killed.
            cleanup_tmp_directories=is_writer,
        ),
        item_handlers={
            'params': ocp.StandardCheckpointHandler(),
            'rest': ocp.StandardCheckpointHandler(),
            'metadata': ocp.JsonCheckpointHandler(),
        },
    )

  def steps(self) -> list[int]:
    """Finished steps, oldest first, as process 0 sees them."""
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

  def pinned(self, step: int) -> contextlib.AbstractContextManager[None]:
    """While it is open the step is not deleted, whoever trains here."""
    return lease.pinned(checkpoint_files.pin_file(self._folder(step)))

  def check_files(self, step: int) -> None:
    """Raises ValueError if a step's files are not those that were written."""
    if step in self._verified:
      return
    found = checkpoint_files.damages(self._folder(step))
    if found:
      raise ValueError(
          f'The checkpoint {self._folder(step)} is damaged: {"; ".join(found)}. '
          'Give another step (STEP), or start the training again: it sets this '
          'one aside and goes on from the one before.'
      )
    self._verified.add(step)

  def undamaged_steps(self) -> list[int]:
    """As `steps`; damaged ones at the end are set aside first, and told.

    Only for who trains here: others may be reading. What is no checkpoint is
    set aside too: Orbax would count it among the newest, which are kept.
    """
    if self._manager is not None:
      self._manager = self._open(create=False, is_writer=True)
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

  def forget_after(self, step: int) -> None:
    """Sets the steps after one aside: the run goes another way from there."""
    self.wait()
    steps = self.steps()  # All processes ask, or process 0 would wait for them.
    if jax.process_index() == 0:
      for later in steps:
        if later > step:
          checkpoint_files.set_aside(self._folder(later), 'rolled-back')
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('forget_after')

  def save(
      self,
      state: train_state.TrainState,
      identity: Mapping[str, str],
      is_last: bool = False,
  ) -> None:
    """Starts to save; the state may be donated as soon as this returns.

    Args:
      state: What to save.
      identity: What it was trained on.
      is_last: Return only when it is on disk; the next step is no help then.

    Raises:
      ValueError: it is the last of several failures in a row.
      UnsavedError: it is one, and other processes wait for this one.
    """
    if self._manager is None:
      self._manager = self._open(create=True)
    self._finish()  # What is being saved, whose failure is not this one's.
    self._start(state, identity)
    while is_last:
      self._finish()
      if not self._failure:
        return
      self._failures += 1  # A full disk counts too now.
      self._start(state, identity)

  def _start(
      self, state: train_state.TrainState, identity: Mapping[str, str]
  ) -> None:
    step = int(state.step)
    try:
      if jax.process_index() == 0:
        arrays = jax.tree.leaves((state.trainable, state.opt_state))
        missing = checkpoint_files.missing_room(
            self._path, sum(x.nbytes for x in arrays)
        )
        if missing:
          self._fail(step, missing, counts=False)
          return
      self._manager.save(
          step,
          args=ocp.args.Composite(
              params=ocp.args.StandardSave(state.trainable),
              rest=ocp.args.StandardSave(_rest(state)),
              metadata=ocp.args.JsonSave(dict(identity)),
          ),
      )
    except Exception as error:  # pylint: disable=broad-exception-caught
      self._fail(step, error)
      return
    self._failure = ''
    if jax.process_index() == 0:
      self._sealer = threading.Thread(target=self._seal, args=[step])
      self._sealer.start()

  def _finish(self) -> None:
    """Waits for what is being saved, and notes whether it was."""
    try:
      self._manager.wait_until_finished()
      self._failures *= bool(self._failure)
    except Exception as error:  # pylint: disable=broad-exception-caught
      self._fail(None, error)
    if self._sealer is not None:
      self._sealer.join()

  def is_due_again(self) -> bool:
    """Whether the last save has failed; to be asked at every step."""
    if self._manager is not None and not self._failure:
      try:
        self._manager.check_for_errors()
      except Exception as error:  # pylint: disable=broad-exception-caught
        self._fail(None, error)
    return bool(self._failure)

  def _fail(
      self, step: int | None, why: str | Exception, counts: bool = True
  ) -> None:
    """Tells of a failed save; opens anew, without what it has left behind."""
    is_new = not self._failure
    self._failures += counts
    self._failure = (
        f'The checkpoint {"" if step is None else f"of step {step} "}could not '
        f'be saved: {why}.'
    )
    message = f'{self._failure} Those before are as they were.'
    if jax.process_count() > 1:
      raise UnsavedError(message)
    if self._failures >= _MAX_FAILURES:
      raise ValueError(message)
    if is_new or counts:
      _warn(f'{self._failure} It is tried again at every step.')
    with contextlib.suppress(Exception):
      self._manager.close()  # It may tell the same again.
    self._manager = self._open(create=True, is_writer=True)

  def _seal(self, step: int) -> None:
    """Waits until a step is finished, then writes its manifest."""
    folder = self._folder(step)
    while not folder.is_dir():
      if not self._manager.is_saving_in_progress() and not folder.is_dir():
        return  # It has failed.
      time.sleep(_POLL_SECS)
    try:
      checkpoint_files.seal(folder)
    except OSError as error:
      _warn(f'{folder} has no manifest to check it by: {error}')

  def wait(self) -> None:
    """Returns when all that was saved is on disk.

    Raises:
      ValueError: the last of it is not.
    """
    if self._manager is not None:
      self._finish()
    if self._failure:
      raise ValueError(f'{self._failure} Those before are as they were.')

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
      self, step: int, state: train_state.TrainState, only_params: bool = False
  ) -> train_state.TrainState:
    """The checkpoint of a step onto the shardings of (abstract) `state`.

    Args:
      step: Of a checkpoint.
      state: Shapes and shardings.
      only_params: Leaves all but the parameters abstract, and unread.

    Raises:
      ValueError: its parameters have other names or shapes than `state`'s, or
        it was written by a version of this package that saved something else.
    """
    self.check_structure(step, state)
    trees = {'params': state.trainable}
    if not only_params:
      trees['rest'] = _rest(state)
      self._check_rest(step, trees['rest'])
    restored = self._manager.restore(
        step,
        args=ocp.args.Composite(
            **{k: ocp.args.StandardRestore(tree) for k, tree in trees.items()}
        ),
    )
    rest = {} if only_params else restored['rest']
    return state._replace(trainable=restored['params'], **rest)

  def _check_rest(self, step: int, wanted: dict[str, Any]) -> None:
    found = self._manager.item_metadata(step)['rest'].tree
    if found.keys() != wanted.keys():
      raise ValueError(
          f'The checkpoint {self._path}/{step} has {", ".join(sorted(found))} '
          f'beside its parameters, and not {", ".join(sorted(wanted))}: another '
          'version of user_llm wrote it. Train in another --workdir; '
          'restore.InitFrom takes its parameters.'
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


def _rest(state: train_state.TrainState) -> dict[str, Any]:
  """What a checkpoint holds beside the parameters."""
  return {
      'step': state.step,
      'opt_state': state.opt_state,
      'recent_losses': state.recent_losses,
  }
