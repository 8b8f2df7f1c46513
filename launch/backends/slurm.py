"""A SLURM cluster whose nodes see the checkout and the workdir."""

import re
import shutil
import socket

from launch import command
from launch import plan as plan_lib
from launch import spec as spec_lib
from launch.backends import backend

# sbatch takes a script; this one becomes the program at once.
_SCRIPT = '#!/bin/sh\nexec "$@"\n'
_COMMANDS = ('sbatch', 'srun', 'scontrol', 'squeue', 'scancel')


class Slurm(backend.Backend):
  """Requeues itself by exit code; see `launch.slurm_batch`."""

  needs_code = True

  def render(self, spec: spec_lib.JobSpec) -> plan_lib.Plan:
    backend.check_secrets(spec, r'file:.+', 'file:PATH')
    if spec.time and not re.fullmatch(r'(\d+-)?\d{1,2}:\d\d:\d\d', spec.time):
      raise spec_lib.error(spec, 'time', 'must be [DAYS-]HOURS:MINUTES:SECONDS')
    if not spec.code:
      raise spec_lib.error(spec, 'code', 'must be given to render')
    folder = plan_lib.JOBS / spec.name
    tasks = spec.processes_per_node or spec.gpus_per_node or 1
    distributed = _distributed(spec, tasks)
    argv = (
        'sbatch',
        '--parsable',
        f'--job-name={spec.name}',
        f'--nodes={spec.nodes}',
        f'--ntasks-per-node={tasks}',
        # Not --gpus-per-task: JAX wants each process to see all of them.
        *((f'--gres=gpu:{spec.gpus_per_node}',) if spec.gpus_per_node else ()),
        *((f'--time={spec.time}',) if spec.time else ()),
        # To the ranks, not to the batch step.
        f'--signal=TERM@{spec.grace_secs}',
        '--requeue',
        '--open-mode=append',
        f'--output={folder}/batch.log',
        *spec.slurm_args,
        f'{folder}/exec.sh',
        # The checkout may change while the job waits: the snapshot does not.
        'env',
        f'PYTHONPATH={folder}/code/{spec.code}',
        'PYTHONSAFEPATH=1',
        'PYTHONUNBUFFERED=1',
        spec.python,
        '-m',
        'launch.slurm_batch',
        f'--logs={command.logs(spec)}',
        '--',
        spec.python,
        '-m',
        'launch.entry',
        *command.entry_args(spec, distributed),
    )
    return plan_lib.Plan(
        job=spec.name,
        steps=(plan_lib.Step(title='Submit', argv=argv),),
        files={'exec.sh': _SCRIPT},
    )

  def checks(self, spec):
    checks = [
        backend.Check(
            what=f'{name} is installed',
            ok=shutil.which(name) is not None,
            mend='log in to a submit node, or ask for the SLURM clients',
        )
        for name in _COMMANDS
    ]
    if not all(check.ok for check in checks):
      return checks
    ping = backend.ask(('scontrol', 'ping'))
    checks.append(
        backend.Check(
            what='the controller answers',
            ok=' is UP' in ping.stdout,
            mend='scontrol ping; ask the administrators',
        )
    )
    if spec and spec.gpus_per_node:
      find = 'from importlib.util import find_spec as f; import sys; sys.exit('
      find += 'not (f("jax_cuda12_plugin") or f("jax_cuda13_plugin")))'
      checks.append(
          backend.Check(
              what=f'JAX of {spec.python} has its plugin for GPUs',
              ok=backend.ask((spec.python, '-c', find)).returncode == 0,
              mend=(
                  f'{spec.python} -m pip install -c requirements.lock '
                  "'jax[cuda12]'; without it GPUs idle"
              ),
          )
      )
    if spec and spec.nodes > 1:
      host = socket.gethostname()
      checks.append(
          backend.Check(
              what=f'{host} has an address that other nodes reach',
              ok=not _address(host).startswith('127.'),
              mend=(
                  f'remove {host} from the 127.* line of /etc/hosts on the '
                  'nodes: the first one is the coordinator'
              ),
          )
      )
    if spec:
      step = self.render(spec).steps[0]
      index = step.argv.index(f'{plan_lib.JOBS / spec.name}/exec.sh')
      test = backend.ask((*step.argv[:index], '--test-only', '--wrap=true'))
      checks.append(
          backend.Check(
              what='sbatch would take the job',
              ok=test.returncode == 0,
              mend=test.stderr.strip(),
          )
      )
    return checks

  def is_active(self, spec, handle):
    state = backend.ask(('squeue', '--noheader', f'--jobs={handle}'))
    return bool(state.stdout.strip())

  def status(self, spec, handle):
    argv = ('scontrol', 'show', 'job', handle)
    return [plan_lib.Step(title='The job', argv=argv)]

  def logs(self, spec, handle, rank, follow):
    return [backend.tail(f'{command.logs(spec)}/rank-{rank:04d}.log', follow)]

  def stop(self, spec, handle):
    update = ('scontrol', 'update', f'JobId={handle}', 'Requeue=0')
    return [
        plan_lib.Step(title='Do not start it again', argv=update),
        plan_lib.Step(
            title='If it waits, forget it',
            argv=('scancel', '--state=PENDING', handle),
        ),
        plan_lib.Step(
            title='If it runs, save and end',
            argv=('scancel', '--signal=TERM', handle),
        ),
    ]


def _distributed(spec: spec_lib.JobSpec, tasks: int) -> dict[str, str]:
  """How the processes meet, and which GPUs each of them has.

  On SLURM each process takes one GPU, that of its number on the node, unless
  it is told otherwise: the others would idle.
  """
  gpus = spec.gpus_per_node
  if gpus and tasks not in (1, gpus):
    raise spec_lib.error(
        spec, 'processes_per_node', f'must be 1, for all {gpus} GPUs of a '
        f'node, or {gpus}, one for each of --gpus_per_node'
    )
  if spec.nodes * tasks == 1:
    return {}
  for flag in spec.slurm_args:
    if not gpus and re.match(r'--gres=(.*,)?gpu|--gpus|-G', flag):
      raise spec_lib.error(
          spec, 'slurm_args', f'{flag}: give --gpus_per_node too; it tells '
          'each process which GPUs are its own'
      )
  met = {'JAX_COORDINATOR_ADDRESS': 'auto'}
  if tasks < gpus:
    met['JAX_LOCAL_DEVICE_IDS'] = ','.join(map(str, range(gpus)))
  return met


def _address(host: str) -> str:
  try:
    return socket.gethostbyname(host)
  except OSError:
    return '127.0.0.1'
