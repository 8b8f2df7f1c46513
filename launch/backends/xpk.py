"""GKE clusters that were made by xpk."""

import re
import shlex
import shutil

from launch import accelerators
from launch import command
from launch import exit_codes
from launch import plan as plan_lib
from launch import spec as spec_lib
from launch.backends import backend
from launch.backends import gke

_MAX_RESTARTS = 1000
# On these it restarts by itself.
_XPK_RETRIES = (exit_codes.PREEMPTED, *range(127, 256))


class Xpk(gke.Gke):
  """`xpk workload create` with the job as one word; then it is a JobSet.

  xpk puts the command into a template of YAML and shell, which quotes, `$` and
  newlines break.
  """

  container = 'jax-tpu'

  def render(self, spec: spec_lib.JobSpec) -> plan_lib.Plan:
    backend.check_image(spec)
    _check(spec)
    found = accelerators.of_job(spec, 'tpu')
    several = found.hosts * spec.slices > 1
    distributed = {'JAX_COORDINATOR_ADDRESS': 'auto'} if several else {}
    args = command.entry_args(spec, distributed)
    retried = [c for c in exit_codes.RETRIED if c not in _XPK_RETRIES]
    argv = (
        'xpk',
        'workload',
        'create',
        *_place(spec),
        f'--workload={spec.name}',
        f'--tpu-type={spec.tpu}',
        f'--num-slices={spec.slices}',
        f'--docker-image={spec.image}',
        # Without `exec` signals would end at a shell.
        f'--command=exec python -m launch.entry {command.pack(args)}',
        f'--max-restarts={_MAX_RESTARTS}',
        f'--restart-on-exit-codes={",".join(map(str, retried))}',
        f'--termination-grace-period-seconds={spec.grace_secs}',
        *((f'--priority={spec.priority}',) if spec.priority else ()),
        *(('--spot',) if spec.spot else ()),
        *(
            f'--storage={source.removeprefix("storage:")}'
            for source in spec.volume.values()
        ),
    )
    note = 'The word at the end of the command is\n' + shlex.join(args)
    step = plan_lib.Step(title='Submit', argv=argv, note=note)
    return plan_lib.Plan(job=spec.name, steps=(step,))

  def checks(self, spec):
    return [
        backend.Check(
            what=f'{name} is installed',
            ok=shutil.which(name) is not None,
            mend=mend,
        )
        for name, mend in (
            ('xpk', 'pip install xpk, in an environment of its own'),
            ('gcloud', 'https://cloud.google.com/sdk/docs/install'),
            ('kubectl', 'gcloud components install kubectl'),
        )
    ]

  def stop(self, spec, handle):
    argv = (
        'xpk', 'workload', 'delete', *_place(spec), f'--workload={spec.name}',
        '--force',
    )
    return [plan_lib.Step(title='Save and end', argv=argv)]


def _place(spec: spec_lib.JobSpec) -> tuple[str, ...]:
  return (
      f'--cluster={spec.cluster}',
      f'--project={spec.project}',
      f'--zone={spec.zone}',
      f'--namespace={spec.namespace}',
  )


def _check(spec: spec_lib.JobSpec) -> None:
  for key in ('cluster', 'project', 'zone', 'tpu'):
    if not getattr(spec, key):
      raise spec_lib.error(spec, key, '--on=xpk needs it')
  levels = ('very-low', 'low', 'medium', 'high', 'very-high')
  if spec.priority and spec.priority not in levels:
    raise spec_lib.error(
        spec, 'priority', f'xpk has {", ".join(levels)}'
    )
  backend.check_workdir_is_kept(spec)
  for mount, source in spec.volume.items():
    if not re.fullmatch(r'storage:[\w.-]+', source):
      raise ValueError(
          f'--volume={mount}={source}: with xpk it must be storage:NAME, a '
          'storage that `xpk storage attach` has given that mount point.'
      )
