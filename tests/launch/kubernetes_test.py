"""Manifests against Kubernetes's schemas, JobSet's, and their meaning."""

import copy
import math
import shutil
import subprocess

import pytest
import yaml

from launch import accelerators
from launch import exit_codes
from launch import manifest
from launch import spec as spec_lib
from launch.backends import gke

jsonschema = pytest.importorskip('jsonschema')
kubernetes_validate = pytest.importorskip('kubernetes_validate')

_IMAGE = 'registry/image@sha256:' + '0' * 64
_TEXT = {'type': 'string', 'minLength': 1}
_COUNT = {'type': 'integer', 'minimum': 1}


def _object(required, **optional):
  return {
      'type': 'object',
      'additionalProperties': False,
      'properties': {**required, **optional},
      'required': list(required),
  }


def _list(item):
  return {'type': 'array', 'minItems': 1, 'items': item}


# What of jobset.x-k8s.io/v1alpha2 is used; the Job inside has a schema of its
# own. `name` of a rule is required by the resource's definition.
_JOBSET = _object({
    'apiVersion': {'const': 'jobset.x-k8s.io/v1alpha2'},
    'kind': {'const': 'JobSet'},
    'metadata': _object(
        {'name': {**_TEXT, 'maxLength': 40}, 'namespace': _TEXT},
        labels={'type': 'object', 'additionalProperties': _TEXT},
        annotations={'type': 'object', 'additionalProperties': _TEXT},
    ),
    'spec': _object({
        'failurePolicy': _object({
            'maxRestarts': _COUNT,
            'restartStrategy': {'enum': ['Recreate', 'BlockingRecreate']},
            'rules': _list(_object({
                'name': {'pattern': '^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$'},
                'action': {'enum': [
                    'FailJobSet', 'RestartJobSet',
                    'RestartJobSetAndIgnoreMaxRestarts',
                ]},
                'onJobFailureReasons': _list({'enum': [
                    'BackoffLimitExceeded', 'DeadlineExceeded',
                    'FailedIndexes', 'MaxFailedIndexesExceeded',
                    'PodFailurePolicy',
                ]}),
            })),
        }),
        'replicatedJobs': _list(_object({
            'name': _TEXT,
            'replicas': _COUNT,
            'template': _object({'spec': {'type': 'object'}}),
        })),
    }),
})

_TPU = {'tpu': 'v6e-16', 'slices': 2, 'queue': 'q', 'service_account': 's'}
_GPU = {'gpu': 'h100-80gb-8', 'nodes': 4, 'spot': True, 'priority': 'high'}
_JOBS = {
    'tpu': _TPU,
    'one host': {'tpu': 'v6e-4'},
    'gpu': _GPU,
    'half a machine': {'gpu': 'h100-80gb-8', 'gpus_per_node': 4},
    'gpu and secret': {**_GPU, 'secret': {'A': 'k8s:a/b'}},
    'secret': {**_TPU, 'secret': {'A': 'k8s:a/b', 'B': 'k8s:a/c'}},
    'bucket': {**_TPU, 'volume': {'/w': 'gs://b/x', '/d': 'pvc:d'}},
}


def _spec(**fields):
  base = {
      'name': 'job', 'on': 'gke', 'gin_file': ('x.gin',), 'workdir': '/w/a',
      'image': _IMAGE, 'volume': {'/w': 'pvc:w'},
  }
  return spec_lib.JobSpec(**{**base, **fields})


@pytest.fixture(name='job', params=_JOBS, scope='module')
def _job(request):
  spec = _spec(**_JOBS[request.param])
  text = gke.Gke().render(spec).files['jobset.yaml']
  return spec, yaml.safe_load(text)


def test_jobset_schema(job):
  jsonschema.validate(job[1], _JOBSET)


@pytest.mark.parametrize('version', ['1.29', '1.33'])
def test_the_job_inside(job, version):
  (replicated,) = job[1]['spec']['replicatedJobs']
  inner = {
      'apiVersion': 'batch/v1',
      'kind': 'Job',
      'metadata': {'name': 'inner'},
      **copy.deepcopy(replicated['template']),
  }
  kubernetes_validate.validate(inner, version, strict=True)
  inner['spec']['template']['spec']['containers'][0]['comand'] = ['x']
  with pytest.raises(kubernetes_validate.ValidationError):
    kubernetes_validate.validate(inner, version, strict=True)


def test_meaning(job):
  spec, tree = job
  (replicated,) = tree['spec']['replicatedJobs']
  inner = replicated['template']['spec']
  pod = inner['template']['spec']
  (container,) = pod['containers']
  slices = replicated['replicas']

  # Elsewhere podFailurePolicy is taken, and no pod is ever made.
  assert pod['restartPolicy'] == 'Never'
  assert inner['backoffLimit'] == 0
  assert inner['completions'] == inner['parallelism']
  longest = (
      f'{spec.name}-{replicated["name"]}-{slices - 1}-'
      f'{inner["completions"] - 1}-xxxxx'
  )
  assert len(longest) <= 63
  assert pod['terminationGracePeriodSeconds'] >= 60
  assert '@sha256:' in container['image']
  assert container['command'][0] == 'python'
  assert not container['securityContext'].get('privileged')
  literals = {
      variable['name']: variable['value']
      for variable in container.get('env', ()) if 'value' in variable
  }
  assert literals == (
      {'LD_LIBRARY_PATH': '/usr/local/nvidia/lib64'} if spec.gpu else {}
  )
  mounts = {mount['name'] for mount in container['volumeMounts']}
  assert mounts == {volume['name'] for volume in pod['volumes']}

  chips = container['resources']['limits']
  if spec.tpu:
    found = accelerators.tpus()[spec.tpu]
    assert chips == {'google.com/tpu': found.chips_per_host}
    assert inner['completions'] * chips['google.com/tpu'] == found.chips
    topology = pod['nodeSelector']['cloud.google.com/gke-tpu-topology']
    assert math.prod(map(int, topology.split('x'))) == found.chips
  else:
    assert inner['completions'] == spec.nodes
    assert slices == 1


def test_restarts_follow_the_exit_codes(job):
  failure = job[1]['spec']['failurePolicy']
  (rule,) = failure['rules']
  assert rule['action'] == 'FailJobSet'
  assert rule['onJobFailureReasons'] == ['PodFailurePolicy']
  (replicated,) = job[1]['spec']['replicatedJobs']
  inner = replicated['template']['spec']
  (pod_rule,) = inner['podFailurePolicy']['rules']
  on_codes = pod_rule['onExitCodes']
  (container,) = inner['template']['spec']['containers']
  assert on_codes['containerName'] == container['name']
  assert on_codes['operator'] == 'NotIn'
  for code in range(1, 256):
    fails = code not in on_codes['values']
    assert fails == (not exit_codes.is_retried(code))


def test_machines_find_each_other():
  several = gke.jobset(_spec(**_GPU))['spec']['replicatedJobs'][0]
  args = several['template']['spec']['template']['spec']['containers'][0]['args']
  # POD.SERVICE; the pod is JOBSET-GROUP-JOB-INDEX, the service the JobSet.
  assert (
      '--env=JAX_COORDINATOR_ADDRESS=job-workers-0-0.job:8476' in args
  )
  assert '--env=JAX_NUM_PROCESSES=4' in args
  alone = manifest.dump(gke.jobset(_spec(tpu='v6e-4')))
  assert 'JAX_COORDINATOR_ADDRESS' not in alone


def test_none_is_refused():
  with pytest.raises(TypeError, match='None'):
    manifest.dump({'a': [None]})


@pytest.mark.skipif(not shutil.which('kubectl'), reason='no kubectl')
def test_kubernetes_own_reader_reads_the_same(tmp_path):
  texts = [
      '1e-3', '0o17', '1_000', '012', '0x1f', 'y', 'No', 'ON', '~', 'null', '.5',
      '1:30', '2020-01-01', '=', '<<', '- a', 'a: b', 'a #b', '"', "'", '\\',
      'two\nlines\n', '\ttab', ' x ', '\x07', '\u2028', '☃\U0001f600',
      'long ' * 60, '{a}', '[b]', '&c', '*d', '!e', '%f', '@g', '`h', '',
  ]
  # U+0085 is read rightly, but printed so that PyYAML does not read it back.
  tree = {
      'apiVersion': 'v1',
      'kind': 'ConfigMap',
      'metadata': {'name': 'x'},
      'data': {f'k{i}': text for i, text in enumerate(texts)},
  }
  (tmp_path / 'x.yaml').write_text(manifest.dump(tree), encoding='utf-8')
  (tmp_path / 'kustomization.yaml').write_text('resources: [x.yaml]\n')
  result = subprocess.run(
      ['kubectl', 'kustomize', str(tmp_path)], capture_output=True, check=True
  )
  found = yaml.load(result.stdout, yaml.BaseLoader)  # All as texts.
  assert found['data'] == tree['data']
