"""Cloud TPU: gcloud's own parser, and a gcloud that walks through states."""

import ast
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from launch import spec as spec_lib
from launch import tpu_host
from launch.backends import tpu_vm

_FAKE = '''#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
argv = sys.argv[1:]
with (folder / 'calls').open('a') as calls:
  calls.write(json.dumps(argv) + '\\n')
state = json.loads((folder / 'state').read_text())
def save():
  (folder / 'state').write_text(json.dumps(state))
verb = next(w for w in argv if w in ('create', 'describe', 'delete', 'cat', 'rm'))
if verb == 'cat':
  if state['broken_bucket']:
    state['broken_bucket'] -= 1
    save()
    sys.exit('ERROR: (gcloud.storage.cat) HTTPError 403: no access to b')
  if state['exit'] is None or state['now'] != ['ACTIVE']:
    sys.exit(
        'ERROR: (gcloud.storage.cat) The following URLs matched no objects or '
        'files:\\n' + argv[-1]
    )
  print(json.dumps({{'code': state['exit'], **state['row']}}))
elif verb == 'create':
  if state['now']:
    sys.exit('ERROR: ALREADY_EXISTS')
  state['now'] = state['lives'].pop(0)
  save()
elif verb == 'delete':
  state['now'] = []
  save()
elif verb == 'describe':
  if state['broken']:
    state['broken'] -= 1
    save()
    sys.exit('ERROR: HTTP 503')
  if not state['now']:
    sys.exit('ERROR: (gcloud) NOT_FOUND: Resource was not found')
  row = {{'state': state['now'][0]}}
  if row['state'] == 'FAILED':
    row['failedData'] = {{'error': {{'message': 'no quota'}}}}
  print(json.dumps({{'state': row}}))
  if len(state['now']) > 1:
    del state['now'][0]
    save()
'''


def _spec(**fields):
  base = {
      'name': 'job', 'on': 'tpu-vm', 'gin_file': ('x.gin',), 'tpu': 'v5p-32',
      'zone': 'us-east5-a', 'project': 'p', 'workdir': '/runs/a',
      'image': 'eu-docker.pkg.dev/p/r/image@sha256:' + '0' * 64,
      'volume': {'/runs': 'gs://b/runs'}, 'spot': True,
  }
  return spec_lib.JobSpec(**{**base, **fields})


@pytest.fixture(name='walk')
def _walk(tmp_path, monkeypatch):
  """Runs a job through states; gives its code and the verbs that were called."""
  (tmp_path / 'bin').mkdir()
  fake = tmp_path / 'bin' / 'gcloud'
  fake.write_text(_FAKE.format(python=sys.executable, folder=str(tmp_path)))
  fake.chmod(0o755)
  monkeypatch.setenv('PATH', f'{fake.parent}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setattr(tpu_vm.TpuVm, 'poll_secs', 0.0)

  def walk(
      *lives, now=(), exit_code=0, broken=0, broken_bucket=0, row={'rank': 0}
  ):
    state = {
        'lives': lives, 'now': now, 'exit': exit_code, 'broken': broken,
        'broken_bucket': broken_bucket, 'row': row,
    }
    (tmp_path / 'state').write_text(json.dumps(state))
    spec = _spec()
    place = tpu_vm.TpuVm()
    code = place.submit(spec, place.render(spec), lambda handle: None)
    calls = map(json.loads, (tmp_path / 'calls').read_text().splitlines())
    return code, [
        word for argv in calls for word in argv
        if word in ('create', 'delete', 'rm')
    ]

  return walk


def test_waits_runs_and_deletes(walk, capsys):
  code, verbs = walk([
      'ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'
  ])
  assert code == 0
  assert verbs == ['rm', 'create', 'delete']
  out = capsys.readouterr().out
  assert out.index('WAITING_FOR_RESOURCES') < out.index('ended')
  assert 'it costs money until: python -m launch stop job' in out


def test_a_preempted_one_is_made_again(walk):
  code, verbs = walk(
      ['WAITING_FOR_RESOURCES', 'ACTIVE', 'SUSPENDING', 'SUSPENDED'],
      ['SUSPENDED'],
      ['ACTIVE'],
  )
  assert code == 0
  assert verbs == ['rm', *['create', 'delete'] * 3]


def test_the_exit_code_of_the_job(walk):
  assert walk(['ACTIVE'], exit_code=44) == (44, ['rm', 'create', 'delete'])


def test_refused(walk, capsys):
  code, verbs = walk(['CREATING', 'FAILED'])
  assert code == 1
  assert verbs == ['rm', 'create', 'delete']
  assert 'FAILED no quota' in capsys.readouterr().out


def test_takes_up_what_is_there(walk):
  # Its exit code, if it has one by now, is not of an earlier submission.
  assert walk(now=['ACTIVE']) == (0, ['delete'])


def test_gcloud_fails_for_a_while(walk):
  assert walk(['ACTIVE'], now=['ACTIVE'], broken=4) == (0, ['delete'])


def test_gcloud_fails_for_good(walk, capsys):
  assert walk(now=['ACTIVE'], broken=99)[0] == 1
  assert 'HTTP 503' in capsys.readouterr().out


def test_the_bucket_fails_for_a_while(walk):
  assert walk(['ACTIVE'], broken_bucket=4) == (0, ['rm', 'create', 'delete'])


def test_the_bucket_fails_for_good(walk, capsys):
  """What cannot be read is not taken for a job that runs."""
  assert walk(['ACTIVE'], broken_bucket=99) == (1, ['rm', 'create'])
  out = capsys.readouterr().out
  assert 'unknown ERROR: (gcloud.storage.cat) HTTPError 403' in out
  assert 'may cost money until: python -m launch stop job' in out


def test_a_host_that_could_not_start(walk, capsys):
  row = {'problem': 'host-3: docker pull failed.'}
  assert walk(['ACTIVE'], exit_code=1, row=row) == (
      1, ['rm', 'create', 'delete']
  )
  assert 'job: ended host-3: docker pull failed.' in capsys.readouterr().out


def test_a_create_that_is_refused(walk):
  assert walk() == (1, ['rm', 'create'])  # No life is left: the fake fails.


def test_workers_are_numbered_over_slices(monkeypatch):
  metadata = {'agent-worker-number': '2'}
  monkeypatch.setattr(
      tpu_host, '_metadata', lambda name, default=None: metadata.get(name, default)
  )
  assert tpu_host._worker() == 2
  metadata['tpu-env'] = "TYPE: 'V5P'\nMEGASCALE_SLICE_ID: '3'\n"
  metadata['worker-network-endpoints'] = 'a:b:c,d:e:f,g:h:i,j:k:l'
  assert tpu_host._worker() == 3 * 4 + 2


def test_docker_runs_what_the_plan_says():
  plan = tpu_vm.TpuVm().render(_spec(secret={'T': 'gcp:t'}))
  argv = tpu_host.docker_argv(json.loads(plan.files['host.json']), 5)
  assert '--env=USER_LLM_WORKER=5' in argv
  assert '--volume=/runs:/runs' in argv
  assert '--env=T' in argv
  assert '--exit_file=/runs/a/exit.json' in argv
  url = tpu_vm.TpuVm().logs(_spec(), 'job', 3, False)[0].argv[-1]
  assert url == 'gs://b/runs/a/logs/job/rank-0003.log'


@pytest.fixture(name='host')
def _host(tmp_path, monkeypatch):
  """A TPU VM: its commands are noted, and fail by `fails`; then its mount."""
  for name in ('gcloud', 'gcsfuse', 'docker'):
    path = tmp_path / name
    path.write_text(f'''#!/bin/sh
echo {name} "$@" >> {tmp_path}/commands
case "{name} $*" in *storage*) cat "$3" >> {tmp_path}/exit.json;; esac
if grep -qx "{name} $1" {tmp_path}/fails; then exit 1; fi
echo canary
''')
    path.chmod(0o755)
  (tmp_path / 'fails').touch()
  mount = f'{tmp_path}/runs'
  spec = _spec(
      volume={mount: 'gs://b/runs/x'}, workdir=f'{mount}/a',
      secret={'HF': 'gcp:hf'},
  )
  metadata = {
      'user-llm-job': tpu_vm.TpuVm().render(spec).files['host.json'],
      'agent-worker-number': '1',
  }
  monkeypatch.setattr(
      tpu_host, '_metadata', lambda name, default=None: metadata.get(name, default)
  )
  monkeypatch.setattr(tpu_host, '_WAITS_SECS', (0,))
  monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
  return mount


def test_a_host_mounts_and_starts(host, tmp_path, monkeypatch):
  started = []
  monkeypatch.setattr(os, 'execvpe', lambda *args: started.append(args))
  tpu_host.main()
  assert (tmp_path / 'commands').read_text().splitlines() == [
      'gcsfuse --implicit-dirs --rename-dir-limit=200000 --only-dir=runs/x b '
      + host,
      'gcloud secrets versions access latest --secret=hf',
      'gcloud auth configure-docker eu-docker.pkg.dev --quiet',
      f'docker pull --quiet {_spec().image}',
      'docker rm --force user-llm',
  ]
  ((program, argv, environment),) = started
  assert program == 'docker'
  assert environment['HF'] == 'canary'
  assert 'canary' not in str(argv)
  assert not (tmp_path / 'exit.json').exists()


@pytest.mark.parametrize(
    ('command', 'problem'),
    [
        ('docker pull', 'docker pull --quiet failed with exit code 1.'),
        ('gcloud secrets', 'gcloud secrets versions failed with exit code 1.'),
        ('gcsfuse --implicit-dirs', 'failed with exit code 1.'),
    ],
)
@pytest.mark.usefixtures('host')
def test_a_host_that_cannot_start_says_so(tmp_path, command, problem):
  (tmp_path / 'fails').write_text(f'{command}\n')
  with pytest.raises(SystemExit):
    tpu_host.main()
  last = (tmp_path / 'commands').read_text().splitlines()[-1]
  # Where the watcher looks.
  assert last.startswith('gcloud storage cp /')
  assert last.endswith(' gs://b/runs/x/a/exit.json')
  row = json.loads((tmp_path / 'exit.json').read_text())
  assert row['code'] == 1
  assert row['problem'].endswith(problem)
  assert (tmp_path / 'commands').read_text().count(command) == 2  # Tried again.


def test_a_host_needs_no_new_python():
  text = pathlib.Path(tpu_host.__file__).read_text(encoding='utf-8')
  ast.parse(text, feature_version=(3, 8))
  modules = {
      name.name for node in ast.walk(ast.parse(text))
      if isinstance(node, ast.Import) for name in node.names
  }
  assert modules <= {*sys.stdlib_module_names, 'urllib.error', 'urllib.request'}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('gcloud'), reason='no Google Cloud SDK')
@pytest.mark.parametrize(
    'fields',
    [{}, {'slices': 2, 'spot': False, 'reserved': True, 'service_account': 's'}],
    ids=['spot', 'slices'],
)
def test_gcloud_takes_the_commands(tmp_path, monkeypatch, fields):
  """Without an account its code is 2 for a wrong flag, and 1 for a right one."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('CLOUDSDK_CONFIG', str(tmp_path / 'config'))
  monkeypatch.setenv('CLOUDSDK_CORE_DISABLE_PROMPTS', '1')
  place, spec = tpu_vm.TpuVm(), _spec(**fields)
  plan = place.render(spec)
  plan.write(pathlib.Path('runs/launch/job'))
  steps = [
      *plan.steps, *place.status(spec, ''), *place.stop(spec, ''),
      *place.logs(spec, '', 0, False),
  ]
  commands = [step.argv for step in steps]
  url = 'gs://b/runs/a/exit.json'
  commands += [
      ('gcloud', 'storage', 'rm', url),
      ('gcloud', 'storage', 'cp', __file__, url),
  ]
  for argv in commands:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 1, f'{argv}\n{result.stderr}'
  wrong = (*commands[0], '--best-effort')
  assert subprocess.run(wrong, capture_output=True, check=False).returncode == 2
