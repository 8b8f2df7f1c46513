"""A JobSet on Kubernetes: TPU slices or machines with GPUs."""

import shutil
from typing import Any

from launch import accelerators
from launch import command
from launch import exit_codes
from launch import manifest
from launch import plan as plan_lib
from launch import spec as spec_lib
from launch.backends import backend

_GROUP = 'workers'
_COORDINATOR_PORT = 8476
# The progress rule of `launch.entry` ends a job that fails again and again.
_MAX_RESTARTS = 1000
_MANIFEST = 'jobset.yaml'
# Where GKE mounts libcuda, and only NVIDIA's own images look for it.
_GPU_DRIVER = '/usr/local/nvidia/lib64'


class Gke(backend.Backend):
  """Also for other Kubernetes clusters whose nodes have GKE's labels."""

  container = 'main'

  def render(self, spec: spec_lib.JobSpec) -> plan_lib.Plan:
    backend.check_image(spec)
    backend.check_workdir_is_kept(spec)
    backend.check_secrets(
        spec, r'k8s:[a-z0-9.-]+/[\w.-]+', 'k8s:SECRET/KEY'
    )
    text = manifest.dump(jobset(spec))
    path = f'{plan_lib.JOBS / spec.name}/{_MANIFEST}'
    # Not `apply`: a JobSet cannot be changed, and one of another must not be.
    create = (*_kubectl(spec), 'create', f'--filename={path}')
    steps = [plan_lib.Step(title='Submit', argv=create)]
    if spec.submission > 1:
      steps.insert(
          0,
          plan_lib.Step(
              title='Remove what is left of the submission before',
              argv=(*_delete(spec), '--ignore-not-found'),
          ),
      )
    return plan_lib.Plan(
        job=spec.name, steps=tuple(steps), files={_MANIFEST: text}
    )

  def checks(self, spec):
    is_installed = shutil.which('kubectl') is not None
    checks = [
        backend.Check(
            what='kubectl is installed',
            ok=is_installed,
            mend='https://kubernetes.io/docs/tasks/tools/',
        )
    ]
    if not is_installed:
      return checks
    base = _kubectl(spec) if spec else ('kubectl',)
    asked = (
        (
            'the cluster answers',
            (*base, 'version', '--request-timeout=10s'),
            'gcloud container clusters get-credentials CLUSTER --location=ZONE',
        ),
        (
            'the cluster knows JobSet',
            (*base, 'get', 'crd', 'jobsets.jobset.x-k8s.io'),
            'https://jobset.sigs.k8s.io/docs/installation/',
        ),
        (
            'you may create one',
            (*base, 'auth', 'can-i', 'create', 'jobsets.jobset.x-k8s.io'),
            'ask the administrator for the role to create JobSets',
        ),
    )
    for what, argv, mend in asked:
      ok = backend.ask(argv).returncode == 0
      checks.append(backend.Check(what=what, ok=ok, mend=mend))
      if not ok:
        break
    return checks

  def is_active(self, spec, handle):
    state = backend.ask((
        *_kubectl(spec), 'get', 'jobset', spec.name, '--ignore-not-found',
        '--output=jsonpath={.metadata.name}/{.status.terminalState}',
    ))
    return state.stdout == f'{spec.name}/'

  def status(self, spec, handle):
    pods = (
        *_kubectl(spec), 'get', 'jobset,pods', '--output=wide',
        f'--selector=jobset.sigs.k8s.io/jobset-name={spec.name}',
    )
    describe = (*_kubectl(spec), 'describe', 'jobset', spec.name)
    return [
        plan_lib.Step(title='The job', argv=describe),
        plan_lib.Step(title='Its pods', argv=pods),
    ]

  def logs(self, spec, handle, rank, follow):
    hosts = accelerators.of_job(spec, 'tpu').hosts if spec.tpu else spec.nodes
    slice_id, index = divmod(rank, hosts)
    selector = (
        f'jobset.sigs.k8s.io/jobset-name={spec.name}'
        f',jobset.sigs.k8s.io/job-index={slice_id}'
        f',batch.kubernetes.io/job-completion-index={index}'
    )
    argv = (
        *_kubectl(spec), 'logs', f'--selector={selector}',
        f'--container={self.container}', '--tail=-1', *(('--follow',) if follow else ()),
    )
    return [plan_lib.Step(title='The log', argv=argv)]

  def stop(self, spec, handle):
    argv = _delete(spec)
    return [plan_lib.Step(title='Save and end', argv=argv)]


def _kubectl(spec: spec_lib.JobSpec) -> tuple[str, ...]:
  context = (f'--context={spec.context}',) if spec.context else ()
  return ('kubectl', *context, f'--namespace={spec.namespace}')


def _delete(spec: spec_lib.JobSpec) -> tuple[str, ...]:
  return (*_kubectl(spec), 'delete', 'jobset', spec.name)


def jobset(spec: spec_lib.JobSpec) -> dict[str, Any]:
  """The manifest as a tree."""
  metadata: dict[str, Any] = {'name': spec.name, 'namespace': spec.namespace}
  if spec.queue:
    metadata['labels'] = {'kueue.x-k8s.io/queue-name': spec.queue}
  if spec.tpu:
    # One slice is one node pool, and takes one Job.
    metadata['annotations'] = {
        'alpha.jobset.sigs.k8s.io/exclusive-topology': (
            'cloud.google.com/gke-nodepool'
        )
    }
  return {
      'apiVersion': 'jobset.x-k8s.io/v1alpha2',
      'kind': 'JobSet',
      'metadata': metadata,
      'spec': {
          'failurePolicy': {
              'maxRestarts': _MAX_RESTARTS,
              # Ranks of one run must not write beside those of the one before.
              'restartStrategy': 'BlockingRecreate',
              'rules': [{
                  'name': 'not_retried',
                  'action': 'FailJobSet',
                  'onJobFailureReasons': ['PodFailurePolicy'],
              }],
          },
          'replicatedJobs': [{
              'name': _GROUP,
              'replicas': spec.slices,
              'template': {'spec': _job(spec)},
          }],
      },
  }


def _job(spec: spec_lib.JobSpec) -> dict[str, Any]:
  chips, hosts, nodes, distributed = _resources(spec)
  pod: dict[str, Any] = {
      # Job's podFailurePolicy does nothing under any other.
      'restartPolicy': 'Never',
      'terminationGracePeriodSeconds': spec.grace_secs,
      'nodeSelector': nodes,
      'tolerations': [
          {'key': key, 'operator': 'Exists'}
          for key in (*chips, *(k for k in nodes if k.endswith('gke-spot')))
      ],
      'containers': [_container(spec, chips, distributed)],
      'volumes': _volumes(spec),
  }
  if spec.service_account:
    pod['serviceAccountName'] = spec.service_account
  if spec.priority:
    pod['priorityClassName'] = spec.priority
  template: dict[str, Any] = {'spec': pod}
  if any(source.startswith('gs://') for source in spec.volume.values()):
    template['metadata'] = {'annotations': {'gke-gcsfuse/volumes': 'true'}}
  return {
      'completionMode': 'Indexed',
      'completions': hosts,
      'parallelism': hosts,
      'backoffLimit': 0,
      'podFailurePolicy': {
          'rules': [{
              'action': 'FailJob',
              'onExitCodes': {
                  'containerName': 'main',
                  'operator': 'NotIn',
                  'values': list(exit_codes.RETRIED),
              },
          }]
      },
      'template': template,
  }


def _resources(
    spec: spec_lib.JobSpec,
) -> tuple[dict[str, int], int, dict[str, str], dict[str, str]]:
  """Chips of a pod, pods of a Job, node labels, and how the pods meet."""
  if bool(spec.tpu) == bool(spec.gpu):
    raise ValueError('--on=gke needs --tpu=TYPE or --gpu=KIND, and not both.')
  kind = 'tpu' if spec.tpu else 'gpu'
  found = accelerators.of_job(spec, kind)
  spot = {'cloud.google.com/gke-spot': 'true'} if spec.spot else {}
  if spec.tpu:
    if spec.nodes != 1 or spec.gpus_per_node:
      raise ValueError('--nodes and --gpus_per_node do not go with --tpu.')
    several = found.hosts * spec.slices > 1
    return (
        {'google.com/tpu': found.chips_per_host},
        found.hosts,
        {
            'cloud.google.com/gke-tpu-accelerator': found.gke,
            'cloud.google.com/gke-tpu-topology': found.topology,
            **spot,
        },
        {'JAX_COORDINATOR_ADDRESS': 'auto'} if several else {},
    )
  if spec.slices != 1:
    raise spec_lib.error(spec, 'slices', 'is for --tpu; GPUs take --nodes')
  wanted = spec.gpus_per_node or found.chips
  if wanted > found.chips:
    raise spec_lib.error(
        spec, 'gpus_per_node', f'{spec.gpu} has {found.chips}'
    )
  # JAX would ask the API server, which needs a package and a role.
  address = f'{spec.name}-{_GROUP}-0-0.{spec.name}:{_COORDINATOR_PORT}'
  together = {
      'JAX_COORDINATOR_ADDRESS': address,
      'JAX_NUM_PROCESSES': str(spec.nodes),
  }
  return (
      {'nvidia.com/gpu': wanted},
      spec.nodes,
      {
          'cloud.google.com/gke-accelerator': found.gke,
          'node.kubernetes.io/instance-type': found.machine,
          **spot,
      },
      together if spec.nodes > 1 else {},
  )


def _container(
    spec: spec_lib.JobSpec, chips: dict[str, int], distributed: dict[str, str]
) -> dict[str, Any]:
  container = {
      'name': 'main',
      'image': spec.image,
      # No shell: signals reach the trainer, and nothing has to be quoted but
      # the $ of Kubernetes's own $(NAME).
      'command': ['python', '-m', 'launch.entry'],
      'args': [
          arg.replace('$', '$$')
          for arg in command.entry_args(spec, distributed)
      ],
      'resources': {'limits': chips},
      'securityContext': {'allowPrivilegeEscalation': False},
      'volumeMounts': [
          {'name': f'volume-{i}', 'mountPath': mount}
          for i, mount in enumerate(spec.volume)
      ]
      + [{'name': 'shared-memory', 'mountPath': '/dev/shm'}],
  }
  env: list[dict[str, Any]] = [
      {'name': name, 'valueFrom': {'secretKeyRef': _secret(reference)}}
      for name, reference in spec.secret.items()
  ]
  if spec.gpu:
    env.append({'name': 'LD_LIBRARY_PATH', 'value': _GPU_DRIVER})
  if env:
    container['env'] = env
  return container


def _secret(reference: str) -> dict[str, str]:
  name, _, key = reference.removeprefix('k8s:').partition('/')
  return {'name': name, 'key': key}


def _volumes(spec: spec_lib.JobSpec) -> list[dict[str, Any]]:
  volumes = []
  for i, (mount, source) in enumerate(spec.volume.items()):
    kind, _, rest = source.partition(':')
    volume: dict[str, Any] = {'name': f'volume-{i}'}
    if kind == 'pvc' and rest:
      volume['persistentVolumeClaim'] = {'claimName': rest}
    elif source.startswith('gs://') and len(source) > len('gs://'):
      bucket, _, folder = source.removeprefix('gs://').partition('/')
      options = [
          'implicit-dirs',
          # A checkpoint is done when its folder has been renamed; the most
          # files of one that may be, where the default is none.
          'rename-dir-limit=200000',
          *([f'only-dir={folder}'] if folder else []),
      ]
      volume['csi'] = {
          'driver': 'gcsfuse.csi.storage.gke.io',
          'volumeAttributes': {
              'bucketName': bucket, 'mountOptions': ','.join(options)
          },
      }
    else:
      raise ValueError(
          f'--volume={mount}={source}: must be gs://BUCKET[/FOLDER] or '
          'pvc:CLAIM.'
      )
    volumes.append(volume)
  return volumes + [
      {'name': 'shared-memory', 'emptyDir': {'medium': 'Memory'}}
  ]
