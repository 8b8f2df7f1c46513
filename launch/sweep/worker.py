"""Takes trials of a sweep's folder, one after the other, until none is left."""

from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

from launch import exit_codes
from launch import guard
from launch.sweep import attempt
from launch.sweep import folder as folder_lib
from launch.sweep import lease as lease_lib
from launch.sweep import results
from launch.sweep import spec as spec_lib

# A command that fails so would fail so again.
_FINAL = (exit_codes.USER_ERROR, exit_codes.NOT_FINITE)
# Not if it was told to stop, or another trainer had the workdir.
_FAILURES = (attempt.EXITED, attempt.LOST)

Command = Callable[[folder_lib.Trial], Sequence[str]]


def training(
    trial: folder_lib.Trial, flags: Sequence[str] = ()
) -> list[str]:
  """The command of a trial; `flags` are further ones of user_llm.main."""
  return [
      sys.executable, '-m', 'user_llm.main', 'train',
      *(f'--gin_file={path}' for path in trial.gin_files),
      *(f'--gin.{override}' for override in trial.overrides),
      f'--workdir={trial.workdir}',
      *flags,
  ]


@dataclasses.dataclass(kw_only=True)
class Worker:
  """One of any number of workers on a folder.

  Attributes:
    folder: Prepared by `folder.prepare`.
    command: Of a trial.
    lease_secs: A worker that has not been heard of for so long is dead.
    grace_secs: How long a trainer may take to save and end.
    poll_secs: Between looks for a trial while others run the last ones.
    waits_for_others: False: ends when none is left to take.
  """

  folder: pathlib.Path
  command: Command = training
  lease_secs: float = 120.0
  grace_secs: float = 60.0
  poll_secs: float = 1.0
  waits_for_others: bool = True

  def __post_init__(self):
    self._is_stopped = False
    self._is_waiting = False
    self._attempt: subprocess.Popen | None = None

  def run(self) -> int:
    """Returns 0, 1 if a trial has failed, or 42 if it was told to stop.

    Raises:
      ValueError: the objective is no scalar of a finished trial.
    """
    numbers = (signal.SIGTERM, signal.SIGINT)
    old = {n: signal.signal(n, self._on_signal) for n in numbers}
    try:
      return self._run()
    finally:
      for number, handler in old.items():
        signal.signal(number, handler)

  def _run(self) -> int:
    plan = folder_lib.load(self.folder)
    results.write(self.folder, plan)
    while not self._is_stopped:
      plan = folder_lib.load(self.folder)
      open_trials = [t for t in plan.trials if t.result() is None]
      if not open_trials:
        break
      taken = next(filter(None, map(self._take, open_trials)), None)
      if taken is None and not self.waits_for_others:
        return exit_codes.DONE
      if taken is None:
        self._wait(len(open_trials))
        continue
      self._is_waiting = False
      attempt.kill_trainers(taken[0].path)
      _note_lost(*taken)
      self._do(plan, *taken)
      results.write(self.folder, plan)
      print(results.progress(plan), flush=True)
    results.write(self.folder, plan)
    if self._is_stopped:
      print('stopped; the same command goes on from here', flush=True)
      return exit_codes.PREEMPTED
    ends = [trial.result()['status'] for trial in plan.trials]
    return 1 if folder_lib.FAILED in ends else exit_codes.DONE

  def _take(
      self, trial: folder_lib.Trial
  ) -> tuple[folder_lib.Trial, pathlib.Path] | None:
    lease = lease_lib.take(trial.path, self.lease_secs)
    if lease is None:
      return None
    if trial.result() is not None:  # It ended since we looked.
      lease_lib.release(lease)
      return None
    return trial, lease

  def _do(
      self, plan: folder_lib.Plan, trial: folder_lib.Trial, lease: pathlib.Path
  ) -> None:
    """Goes on with a trial: one attempt, or what the last one left undone."""
    rows = attempt.rows(trial.path)
    # Its worker may have been killed between the trial's end and its result.
    if not rows or rows[-1]['code'] != exit_codes.DONE:
      names = (*plan.varying, spec_lib.SEED)
      shown = (f'{k}={v}' for k, v in trial.bindings.items() if k in names)
      print(f'{trial.name}  {"  ".join(shown)}', flush=True)
      self._try(trial, lease)
      rows = attempt.rows(trial.path)
    if lease_lib.latest(trial.path) == lease:  # Else it was taken over.
      result = _result(plan, trial, rows)
      if result is not None:
        trial.write_result(**result)
      if rows[-1]['ended'] != attempt.IN_USE:
        lease_lib.release(lease)
        return
      # Else nobody takes it before the lease has run out: that is the wait.
      print(
          f'{trial.name} is tried again in {self.lease_secs:.0f} s: '
          + '\n'.join(rows[-1]['log'][-1:]),
          flush=True,
      )

  def _try(self, trial: folder_lib.Trial, lease: pathlib.Path) -> None:
    self._attempt = subprocess.Popen(
        [
            sys.executable, '-m', 'launch.sweep.attempt', str(lease),
            f'--beat_secs={self.lease_secs / 10}',
            f'--grace_secs={self.grace_secs}', '--', *self.command(trial),
        ],
        stdin=subprocess.PIPE,
        env=guard.lone_environment(),
    )
    if self._is_stopped:  # It came while the attempt was being started.
      self._attempt.stdin.close()
    code = exit_codes.of_process(self._attempt.wait())
    self._attempt.stdin.close()
    self._attempt = None
    if lease_lib.number(lease) not in _told(trial):
      attempt.kill_trainers(trial.path)
      log = ['the attempt could not be started, or was killed; see above']
      attempt.add_row(
          lease, ended=attempt.LOST, code=code or 1, secs=0.0, log=log
      )

  def _wait(self, num_open: int) -> None:
    if not self._is_waiting:
      self._is_waiting = True
      print(f'waiting: other workers have the last {num_open}', flush=True)
    time.sleep(self.poll_secs)

  def _on_signal(self, *unused: Any) -> None:
    """Closes the pipe, on which the attempt tells the trainer to save."""
    self._is_stopped = True
    if self._attempt is not None:
      self._attempt.stdin.close()


def _note_lost(trial: folder_lib.Trial, lease: pathlib.Path) -> None:
  """Writes down the attempts that could not do so themselves."""
  told = _told(trial)
  for old in sorted(trial.path.glob('lease-*'), key=lease_lib.number):
    if old != lease and lease_lib.number(old) not in told:
      started = _started(old)
      secs = old.stat().st_mtime - started
      attempt.add_row(
          old, ended=attempt.LOST, code=128 + signal.SIGKILL,
          secs=round(max(secs, 0.0), 2),
          log=['its worker, or the machine, went away'],
      )


def _told(trial: folder_lib.Trial) -> set[int]:
  return {row['attempt'] for row in attempt.rows(trial.path)}


def _started(lease: pathlib.Path) -> float:
  try:
    return json.loads(lease.read_text(encoding='utf-8'))['started']
  except json.JSONDecodeError:  # Killed before it was written.
    return lease.stat().st_mtime


def _result(
    plan: folder_lib.Plan, trial: folder_lib.Trial, rows: Sequence[dict]
) -> dict[str, Any] | None:
  """What became of a trial; None if it is to be tried again."""
  last = rows[-1]
  common = {
      'attempts': len(rows),
      'secs': round(sum(row['secs'] for row in rows), 2),
      'scalars': folder_lib.last_scalars(trial.workdir),
  }
  if last['code'] == exit_codes.DONE:
    return {'status': folder_lib.DONE, **common}
  reason = {
      'code': last['code'],
      'reason': exit_codes.describe(last['code']),
      'log': last['log'],
  }
  if last['code'] == exit_codes.NOT_FINITE:
    return {'status': folder_lib.DIVERGED, **common, **reason}
  if last['ended'] not in _FAILURES:
    return None
  # What has saved something new since may go on as often as it likes.
  in_vain = sum(
      row['step'] == last['step'] and row['ended'] in _FAILURES for row in rows
  )
  if last['code'] in _FINAL or in_vain > plan.retries:
    _tell(trial, last)
    return {'status': folder_lib.FAILED, **common, **reason}
  return None


def _tell(trial: folder_lib.Trial, last: dict) -> None:
  print(
      f'{trial.name} failed with {exit_codes.describe(last["code"])}; '
      f'{trial.path / attempt.LOG} ends with:\n  '
      + '\n  '.join(last['log'][-5:]),
      file=sys.stderr,
      flush=True,
  )
