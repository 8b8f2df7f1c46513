"""This machine: N processes under `launch.supervisor`."""

import fcntl
import os
import pathlib
import shutil

from launch import command
from launch import plan as plan_lib
from launch import spec as spec_lib
from launch.backends import backend


class Local(backend.Backend):
  """In the foreground; `stop` and `status` are for other terminals."""

  def render(self, spec: spec_lib.JobSpec) -> plan_lib.Plan:
    backend.check_secrets(spec, r'file:.+', 'file:PATH')
    argv = (
        spec.python,
        '-m',
        'launch.supervisor',
        f'--processes={spec.local_processes}',
        *(
            (f'--fake_devices={spec.fake_devices}',)
            if spec.fake_devices
            else ()
        ),
        f'--logs={command.logs(spec)}',
        f'--grace_secs={spec.grace_secs}',
        '--',
        *command.entry_args(spec),
    )
    step = plan_lib.Step(title='Run, and show the first rank', argv=argv)
    return plan_lib.Plan(job=spec.name, steps=(step,))

  def submit(self, spec, plan, keep_handle) -> int:
    """Becomes the supervisor, under a lock that tells it is alive."""
    argv = plan.steps[0].argv
    if shutil.which(argv[0]) is None:
      raise spec_lib.error(
          spec, 'python', 'is not there: ./launch/install makes it'
      )
    keep_handle(str(os.getpid()))
    lock = os.open(_lock(spec), os.O_RDWR | os.O_CREAT)
    os.set_inheritable(lock, True)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.execvp(argv[0], argv)

  def checks(self, spec):
    python = spec.python if spec else '.venv/bin/python'
    has_jax = backend.ask((python, '-c', 'import jax, user_llm'))
    return [
        backend.Check(
            what=f'{python} has JAX and user_llm',
            ok=has_jax.returncode == 0,
            mend='./launch/install',
        )
    ]

  def is_active(self, spec, handle):
    if not _lock(spec).is_file():
      return False
    with _lock(spec).open() as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
      except BlockingIOError:
        return True
    return False

  def status(self, spec, handle):
    if not self.is_active(spec, handle):
      return []
    argv = ('ps', '-o', 'pid,etime,args', '--ppid', handle)
    return [plan_lib.Step(title='Its processes', argv=argv)]

  def logs(self, spec, handle, rank, follow):
    return [backend.tail(f'{command.logs(spec)}/rank-{rank:04d}.log', follow)]

  def stop(self, spec, handle):
    argv = ('kill', '-TERM', handle)
    return [plan_lib.Step(title='Save and end', argv=argv)]


def _lock(spec: spec_lib.JobSpec) -> pathlib.Path:
  return pathlib.Path(plan_lib.JOBS) / spec.name / 'lock'
