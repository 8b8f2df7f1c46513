"""Cloud TPU VMs by a queued resource, made anew when they are taken away."""

from collections.abc import Callable
import dataclasses
import json
import re
import shutil
import time

from launch import accelerators
from launch import command
from launch import exit_codes
from launch import plan as plan_lib
from launch import spec as spec_lib
from launch.backends import backend

_SCRIPT = 'tpu_host.py'
_JOB = 'host.json'
_EXIT = 'exit.json'
_QUEUE = ('gcloud', 'compute', 'tpus', 'queued-resources')
# Beside the states that Google's API has.
_ABSENT = 'not there'
_UNKNOWN = 'unknown'
_ENDED = 'ended'
_MAX_FAILURES = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class _State:
  """Of the queued resource, or of the job that its machines run.

  Attributes:
    name: One of Google's, or one of the above.
    problem: What is wrong.
    code: Of a job that has ended.
  """

  name: str
  problem: str = ''
  code: int = 0


class TpuVm(backend.Backend):
  """Stays in the foreground to watch; `run` or `resume` takes it up again.

  The VMs need no watching to train: `tpu_host.py` starts by itself, and the
  supervisor in its container restarts by exit code. What only the watcher does
  is to delete them at the end, and to replace those that were preempted.
  """

  poll_secs = 30.0

  def render(self, spec: spec_lib.JobSpec) -> plan_lib.Plan:
    _check(spec)
    found = accelerators.of_job(spec, 'tpu')
    runtime = spec.runtime_version or found.runtime_version
    if not runtime:
      raise spec_lib.error(
          spec, 'runtime_version', f'must be given for {spec.tpu}'
      )
    folder = plan_lib.JOBS / spec.name
    nodes = (f'--node-id={spec.name}',)
    if spec.slices > 1:
      nodes = (f'--node-count={spec.slices}', f'--node-prefix={spec.name}')
    argv = (
        *_QUEUE,
        'create',
        spec.name,
        *_place(spec),
        f'--accelerator-type={spec.tpu}',
        f'--runtime-version={runtime}',
        *nodes,
        *(('--spot',) if spec.spot else ()),
        *(('--reserved',) if spec.reserved else ()),
        *(
            (f'--service-account={spec.service_account}',)
            if spec.service_account
            else ()
        ),
        '--scopes=https://www.googleapis.com/auth/cloud-platform',
        f'--metadata-from-file=startup-script={folder}/{_SCRIPT}'
        f',user-llm-job={folder}/{_JOB}',
        '--quiet',
    )
    several = found.hosts * spec.slices > 1
    job = json.dumps(_host_job(spec, several), indent=1, ensure_ascii=False)
    return plan_lib.Plan(
        job=spec.name,
        steps=(plan_lib.Step(title='Ask for the TPUs', argv=argv),),
        files={_JOB: job + '\n'},
        copies=(_SCRIPT,),
    )

  def submit(self, spec, plan, keep_handle: Callable[[str], None]) -> int:
    if self._state(spec).name == _ABSENT:
      backend.ask(('gcloud', 'storage', 'rm', _url(spec, _EXIT)))
    shown = ''
    failures = 0
    while True:
      state = self._state(spec)
      if state.name != shown:
        print(
            f'launch: {spec.name}: {state.name} {state.problem}'.rstrip(),
            flush=True,
        )
        shown = state.name
        if state.name not in (_ABSENT, _UNKNOWN):
          keep_handle(spec.name)
      failures = failures + 1 if state.name == _UNKNOWN else 0
      if failures > _MAX_FAILURES:
        print(
            'launch: not watched any more. It may cost money until: python -m '
            f'launch stop {spec.name}; to watch it again: python -m launch '
            f'resume {spec.name}'
        )
        return 1
      code = self._act(spec, plan, state)
      if code is not None:
        return code
      time.sleep(self.poll_secs)

  def _act(
      self, spec: spec_lib.JobSpec, plan: plan_lib.Plan, state: _State
  ) -> int | None:
    """Does what the state asks for; returns an exit code when it is over."""
    if state.name == _ABSENT:
      code = backend.run(plan.steps[0].argv).returncode
      if not code:
        print(
            f'launch: it costs money until: python -m launch stop {spec.name}'
        )
      return code or None
    if state.name == _ENDED:
      print(f'launch: {exit_codes.describe(state.code)}')
      return self._delete(spec) or state.code
    if state.name == 'SUSPENDED':
      # Taken away: it stays so, and only a new one gets machines.
      return self._delete(spec) or None
    if state.name == 'FAILED':
      self._delete(spec)
      return 1
    return None

  def _state(self, spec: spec_lib.JobSpec) -> _State:
    result = backend.ask(
        (*_QUEUE, 'describe', spec.name, *_place(spec), '--format=json')
    )
    if result.returncode:
      if 'NOT_FOUND' in result.stderr:
        return _State(name=_ABSENT)
      return _unknown(result.stderr)
    state = json.loads(result.stdout)['state']
    if state['state'] == 'ACTIVE':
      return self._job_state(spec)
    failed = state.get('failedData', {}).get('error', {})
    return _State(name=state['state'], problem=failed.get('message', ''))

  def _job_state(self, spec: spec_lib.JobSpec) -> _State:
    """What its machines have written: nothing, as long as it runs."""
    result = backend.ask(('gcloud', 'storage', 'cat', _url(spec, _EXIT)))
    if not result.returncode:
      row = json.loads(result.stdout)
      return _State(
          name=_ENDED, problem=row.get('problem', ''), code=row['code']
      )
    if 'matched no objects' in result.stderr:
      return _State(name='ACTIVE')
    return _unknown(result.stderr)

  def _delete(self, spec: spec_lib.JobSpec) -> int:
    return backend.run(self.stop(spec, spec.name)[0].argv).returncode

  def checks(self, spec):
    is_installed = shutil.which('gcloud') is not None
    checks = [
        backend.Check(
            what='gcloud is installed',
            ok=is_installed,
            mend='https://cloud.google.com/sdk/docs/install',
        )
    ]
    if not is_installed:
      return checks
    for key, mend in (
        ('account', 'gcloud auth login'),
        ('project', 'gcloud config set project PROJECT, or --project'),
    ):
      found = backend.ask(('gcloud', 'config', 'get-value', key)).stdout
      is_given = bool(spec and getattr(spec, key, ''))
      checks.append(
          backend.Check(
              what=f'gcloud has {"an" if key == "account" else "a"} {key}',
              ok=is_given or bool(found.strip()),
              mend=mend,
          )
      )
    return checks

  def is_active(self, spec, handle):
    return False  # To run it again is to watch it.

  def status(self, spec, handle):
    argv = (*_QUEUE, 'describe', spec.name, *_place(spec))
    return [plan_lib.Step(title='The queued resource', argv=argv)]

  def logs(self, spec, handle, rank, follow):
    path = f'logs/{spec.name}/rank-{rank:04d}.log'
    if follow:
      raise ValueError('--follow: a log in a bucket cannot be followed.')
    argv = ('gcloud', 'storage', 'cat', _url(spec, path))
    return [plan_lib.Step(title='The log', argv=argv)]

  def stop(self, spec, handle):
    argv = (
        *_QUEUE, 'delete', spec.name, *_place(spec), '--force', '--quiet'
    )
    return [plan_lib.Step(title='Delete the TPUs', argv=argv)]


def _unknown(stderr: str) -> _State:
  return _State(
      name=_UNKNOWN, problem=stderr.strip() or 'gcloud is not installed'
  )


def _place(spec: spec_lib.JobSpec) -> tuple[str, ...]:
  project = (f'--project={spec.project}',) if spec.project else ()
  return (*project, f'--zone={spec.zone}')


def _check(spec: spec_lib.JobSpec) -> None:
  backend.check_image(spec)
  backend.check_workdir_is_kept(spec)
  backend.check_secrets(spec, r'gcp:[\w-]+', 'gcp:SECRET')
  for key in ('tpu', 'zone'):
    if not getattr(spec, key):
      raise spec_lib.error(spec, key, '--on=tpu-vm needs it')
  if spec.spot and spec.reserved:
    raise ValueError('--spot and --reserved exclude each other.')
  for mount, source in spec.volume.items():
    if not re.fullmatch(r'gs://[\w.-]+(/[\w./-]+)?', source):
      raise ValueError(
          f'--volume={mount}={source}: with --on=tpu-vm it must be '
          'gs://BUCKET[/FOLDER].'
      )


def _host_job(spec: spec_lib.JobSpec, several: bool) -> dict[str, object]:
  """What `tpu_host.py` reads."""
  distributed = {'JAX_COORDINATOR_ADDRESS': 'auto'} if several else {}
  secrets = {k: v.removeprefix('gcp:') for k, v in spec.secret.items()}
  return {
      'image': spec.image,
      'exit_url': _url(spec, _EXIT),
      'grace_secs': spec.grace_secs,
      'volume': dict(spec.volume),
      'secret': secrets,
      'command': [
          'python',
          '-m',
          'launch.supervisor',
          f'--logs={command.logs(spec)}',
          f'--exit_file={spec.workdir}/{_EXIT}',
          f'--grace_secs={spec.grace_secs}',
          '--',
          *command.entry_args(spec, distributed),
      ],
  }


def _url(spec: spec_lib.JobSpec, path: str) -> str:
  """Where the bucket has a file of the workdir."""
  for mount, source in spec.volume.items():
    if f'{spec.workdir}/'.startswith(f'{mount}/'):
      inside = spec.workdir.removeprefix(mount).strip('/')
      return '/'.join(filter(None, (source.rstrip('/'), inside, path)))
  raise ValueError(f'{spec.workdir} is in no volume.')
