"""What every place to run has to offer."""

import abc
from collections.abc import Callable, Sequence
import dataclasses
import re
import subprocess
import sys

from launch import plan as plan_lib
from launch import spec as spec_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
  """One line of `doctor`.

  Attributes:
    what: It should be true.
    ok: Whether it is.
    mend: What to do if it is not.
  """

  what: str
  ok: bool
  mend: str = ''


class Backend(abc.ABC):
  """Renders jobs, submits them, and finds them again.

  `handle` is what the place calls the job: the last word that submitting it
  printed, such as SLURM's number.
  """

  needs_code = False

  @abc.abstractmethod
  def render(self, spec: spec_lib.JobSpec) -> plan_lib.Plan:
    """A pure function; raises ValueError where the job does not fit."""

  @abc.abstractmethod
  def checks(self, spec: spec_lib.JobSpec | None) -> list[Check]:
    """What must be there; with a job, also whether that job will be taken."""

  @abc.abstractmethod
  def is_active(self, spec: spec_lib.JobSpec, handle: str) -> bool:
    """Whether the job waits or runs."""

  @abc.abstractmethod
  def status(self, spec: spec_lib.JobSpec, handle: str) -> list[plan_lib.Step]:
    """Commands that show how it is."""

  @abc.abstractmethod
  def logs(
      self, spec: spec_lib.JobSpec, handle: str, rank: int, follow: bool
  ) -> list[plan_lib.Step]:
    """Commands that show a rank's log."""

  @abc.abstractmethod
  def stop(self, spec: spec_lib.JobSpec, handle: str) -> list[plan_lib.Step]:
    """Commands that end it for good; where possible it saves first."""

  def submit(
      self, spec: spec_lib.JobSpec, plan: plan_lib.Plan,
      keep_handle: Callable[[str], None],
  ) -> int:
    """Runs the plan; returns an exit code.

    `keep_handle` is called as soon as the job is taken.
    """
    for step in plan.steps:
      result = run(step.argv)
      if result.returncode:
        return result.returncode
      words = result.stdout.split()
      keep_handle(words[-1] if words else '')
    return 0


def run(argv: Sequence[str]) -> subprocess.CompletedProcess:
  """Runs a command, shows what it says, and keeps its stdout."""
  try:
    result = subprocess.run(
        argv, stdout=subprocess.PIPE, text=True, check=False
    )
  except FileNotFoundError:
    print(f'error: {argv[0]} is not installed.', file=sys.stderr)
    return subprocess.CompletedProcess(argv, 127, stdout='')
  sys.stdout.write(result.stdout)
  return result


def ask(argv: Sequence[str]) -> subprocess.CompletedProcess:
  """Runs a command silently; returncode 127 if it is not installed."""
  try:
    return subprocess.run(argv, capture_output=True, text=True, check=False)
  except FileNotFoundError:
    return subprocess.CompletedProcess(argv, 127, stdout='', stderr='')


def tail(path: str, follow: bool) -> plan_lib.Step:
  return plan_lib.Step(
      title='The log',
      argv=('tail', '-n', '+1', *(('-F',) if follow else ()), path),
  )


def check_image(spec: spec_lib.JobSpec) -> None:
  """Raises ValueError if the image is not named by its digest."""
  if not re.fullmatch(r'[^@\s]+@sha256:[0-9a-f]{64}', spec.image):
    raise spec_lib.error(
        spec, 'image', 'must be REPOSITORY@sha256:DIGEST, so that a restart '
        'runs the same code. `docker push` prints the digest; launch/README.md '
        'says how to build the image'
    )


def check_workdir_is_kept(spec: spec_lib.JobSpec) -> None:
  """Raises ValueError if checkpoints would go with the machine."""
  for mount in spec.volume:
    if not re.fullmatch(r'(/[\w.-]+)+', mount):
      raise ValueError(f'--volume={mount}: must be an absolute path.')
  if not any(
      f'{spec.workdir}/'.startswith(f'{mount}/') for mount in spec.volume
  ):
    raise spec_lib.error(
        spec, 'workdir', 'must be in a --volume, such as '
        '--volume=/runs=gs://BUCKET --workdir=/runs/NAME: what is elsewhere '
        'goes with the machine'
    )


def check_secrets(spec: spec_lib.JobSpec, pattern: str, example: str) -> None:
  for name, reference in spec.secret.items():
    if not re.fullmatch(pattern, reference):
      raise ValueError(
          f'--secret={name}={reference}: with --on={spec.on} it must be '
          f'{example}.'
      )
