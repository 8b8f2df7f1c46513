"""Tests of rendering: goldens, purity, no lost byte, no secret."""

import json
import pathlib
import re
import shlex
import subprocess

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest
import yaml

from launch import __main__ as launch_main
from launch import backends
from launch import command
from launch import entry
from launch import flags
from launch import spec as spec_lib
from launch import tpu_host

_EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / 'launch' / 'examples'
_IMAGE = 'registry/image@sha256:' + '0' * 64
_CLOUD = {'image': _IMAGE, 'workdir': '/w/a', 'tpu': 'v6e-16'}
_PLACES = {
    'local': {'on': 'local:2', 'workdir': 'w'},
    'slurm': {'on': 'slurm', 'workdir': 'w', 'code': '0' * 12},
    'gke': {'on': 'gke', 'volume': {'/w': 'pvc:w'}, **_CLOUD},
    'tpu-vm': {
        'on': 'tpu-vm', 'volume': {'/w': 'gs://w'}, 'zone': 'z', **_CLOUD
    },
    'xpk': {
        'on': 'xpk', 'volume': {'/w': 'storage:w'}, 'cluster': 'c',
        'zone': 'z', 'project': 'p', **_CLOUD,
    },
}
_ANY_TEXT = st.text(
    st.characters(exclude_categories=['Cs'], exclude_characters='\0')
)
_NASTY = [
    '', ' ', 'a b', "it's", '"', '$HOME', '$(HOME)', '$$(X)', '`x`', '\\', '\n',
    'a\nb\n', '\r\n', '\t', '#x', '- x', '{a: b}', '1e-3', '0o7', 'yes', 'null',
    '~', '*', '%s', '{{x}}', '--', '-', '--flag', 'ü☃\U0001f600', '\x07', '\x85',
    '\u2028', '\ufeff', ': ', '&a', '!!x', "@Model(a='b')", "['a', \"b\"]", '=',
]


def _spec(place, **fields):
  base = {'name': 'job', 'gin_file': ('x.gin',), **_PLACES[place]}
  return spec_lib.JobSpec(**{**base, **fields})


def _render(spec):
  return backends.get(spec.backend).render(spec)


def _expand(text, variables):
  """What Kubernetes does to $ in `args` (its documentation, 'command')."""
  out, rest = '', text
  while rest:
    if rest.startswith('$$'):
      out, rest = out + '$', rest[2:]
    elif rest.startswith('$(') and ')' in rest:
      name, _, rest = rest[2:].partition(')')
      out += variables.get(name, f'$({name})')
    else:
      out, rest = out + rest[0], rest[1:]
  return out


def _entry_args(spec):
  """The arguments of `launch.entry` as the far end reads them."""
  plan = _render(spec)
  argv = list(plan.steps[-1].argv)
  if spec.backend == 'local':
    return argv[argv.index('--') + 1 :]
  if spec.backend == 'slurm':
    words = argv[argv.index('launch.slurm_batch') :]
    words = words[words.index('--') + 1 :]
    assert words[1:3] == ['-m', 'launch.entry']
    return words[3:]
  if spec.backend == 'gke':
    job = yaml.safe_load(plan.files['jobset.yaml'])['spec']['replicatedJobs'][0]
    pod = job['template']['spec']['template']['spec']
    args = pod['containers'][0]['args']
    return [_expand(arg, {'HOME': '/root', 'X': 'x'}) for arg in args]
  if spec.backend == 'xpk':
    (flag,) = [word for word in argv if word.startswith('--command=')]
    words = shlex.split(flag.removeprefix('--command='))
    assert words[:-1] == ['exec', 'python', '-m', 'launch.entry']
    return command.unpack(words[-1])
  docker = tpu_host.docker_argv(json.loads(plan.files['host.json']), 0)
  words = docker[docker.index(_IMAGE) + 1 :]
  assert words[:3] == ['python', '-m', 'launch.supervisor']
  return words[words.index('--') + 1 :]


def _check_nothing_is_lost(place, args, value):
  spec = _spec(place, args=args, gin={'X': value}, env={'E': value})
  flags_, main_args = entry._parse(_entry_args(spec))
  assert tuple(main_args) == command.main_args(spec)
  assert main_args[-len(args) :] == list(args) or not args
  assert f'--gin.X={value}' in main_args
  assert entry._pairs(flags_.env)['E'] == value
  assert (flags_.job, flags_.workdir) == ('job', spec.workdir)


@pytest.mark.parametrize('place', _PLACES)
def test_nasty_arguments_survive(place):
  _check_nothing_is_lost(place, tuple(_NASTY), ''.join(_NASTY))


@pytest.mark.parametrize('place', _PLACES)
@settings(max_examples=60, deadline=None)
@given(args=st.lists(_ANY_TEXT, max_size=4).map(tuple), value=_ANY_TEXT)
def test_any_arguments_survive(place, args, value):
  _check_nothing_is_lost(place, args, value)


@pytest.mark.parametrize('place', _PLACES)
def test_the_plan_for_reading_is_the_command(place):
  plan = _render(_spec(place, args=tuple(_NASTY)))
  step = plan.steps[-1]
  typed = step.text().replace(f'\n{step.argv[0]}', f'\nset -- {step.argv[0]}', 1)
  shown = subprocess.run(
      ['bash', '-c', typed + 'printf "%s\\0" "$@"'],
      capture_output=True, check=True,
  ).stdout.decode()
  assert shown.split('\0')[:-1] == list(step.argv)


@pytest.mark.parametrize(
    ('fields', 'ids'),
    [
        ({'nodes': 2, 'gpus_per_node': 4, 'processes_per_node': 1}, '0,1,2,3'),
        ({'nodes': 2, 'gpus_per_node': 4}, None),  # One each, as JAX has it.
        ({'nodes': 2, 'gpus_per_node': 1}, None),
        # Alone it takes all that it sees.
        ({'gpus_per_node': 4, 'processes_per_node': 1}, None),
        ({'nodes': 2, 'processes_per_node': 2}, None),
    ],
)
def test_every_gpu_of_a_slurm_node_has_a_process(fields, ids):
  args, _ = entry._parse(_entry_args(_spec('slurm', **fields)))
  assert entry._pairs(args.env).get('JAX_LOCAL_DEVICE_IDS') == ids


@pytest.mark.parametrize('place', _PLACES)
def test_equal_jobs_are_equal_bytes(place):
  first = _spec(place, env={'A': '1', 'B': '2'}, gin={'C': '3', 'D': '4'})
  other = _spec(place, env={'B': '2', 'A': '1'}, gin={'D': '4', 'C': '3'})
  assert _render(first) == _render(other)
  assert _render(first).text() == _render(other).text()


@pytest.mark.parametrize(
    'path', sorted(_EXAMPLES.glob('*.toml')), ids=lambda p: p.stem
)
def test_examples(path, capsys):
  assert launch_main.main(['render', str(path)]) == 0
  golden = path.with_suffix('.plan')
  assert capsys.readouterr().out == golden.read_text(encoding='utf-8'), (
      f'If it is right: python -m launch render {path} > {golden}'
  )


def test_examples_name_files_that_exist():
  gin = _EXAMPLES.parents[1] / 'gin'
  for path in _EXAMPLES.glob('*.toml'):
    for name in flags.load(str(path)).get('gin_file', ()):
      assert (gin / name).is_file(), f'{path}: {name}'


def test_the_guide_names_flags_that_exist():
  text = (_EXAMPLES.parent / 'README.md').read_text(encoding='utf-8')
  known = {
      *spec_lib.fields(), 'dry_run', 'follow', 'new', 'rank', 'out',
      'retry_failed', 'sampler',
  }
  elsewhere = {
      'build-arg', 'gin', 'enable-hierarchical-namespace',
      'uniform-bucket-level-access',
  }
  named = set(re.findall(r'--([a-z][a-z_-]*)', text))
  assert named - known <= elsewhere


def test_no_secret_in_any_plan(tmp_path, monkeypatch):
  canary = 'canary-4711'
  monkeypatch.setenv('HF_TOKEN', canary)
  file = tmp_path / 'token'
  file.write_text(canary)
  file.chmod(0o600)
  references = {
      'local': f'file:{file}', 'slurm': f'file:{file}', 'gke': 'k8s:hf/token',
      'tpu-vm': 'gcp:hf-token',
  }
  for place, reference in references.items():
    spec = _spec(place, secret={'HF_TOKEN': reference})
    plan = _render(spec)
    assert canary not in plan.text(), place
    assert 'HF_TOKEN' in plan.text(), place
  host = json.loads(_render(spec).files['host.json'])
  assert '--env=HF_TOKEN' in tpu_host.docker_argv(host, 0)


@pytest.mark.parametrize(
    ('place', 'fields', 'message'),
    [
        ('local', {'secret': {'T': 'k8s:a/b'}}, 'it must be file:PATH'),
        ('gke', {'secret': {'T': 'file:/x'}}, 'it must be k8s:SECRET/KEY'),
        ('slurm', {'time': 'two hours'}, '[DAYS-]HOURS:MINUTES:SECONDS'),
        (
            'slurm', {'gpus_per_node': 8, 'processes_per_node': 4},
            '--processes_per_node=4: must be 1, for all 8 GPUs of a node, or 8',
        ),
        (
            'slurm', {'gpus_per_node': 2, 'processes_per_node': 4},
            '--processes_per_node=4: must be 1',
        ),
        (
            'slurm', {'nodes': 2, 'slurm_args': ('--gres=gpu:a100:4',)},
            '--gres=gpu:a100:4: give --gpus_per_node too',
        ),
        ('gke', {'image': 'user-llm:latest'}, 'must be REPOSITORY@sha256:'),
        ('gke', {'workdir': '/other'}, 'must be in a --volume'),
        ('tpu-vm', {'workdir': 'gs://w/a'}, 'must be in a --volume'),
        ('gke', {'tpu': 'v6e-17'}, 'Did you mean v6e-1'),
        ('gke', {'gpu': 'b200-8'}, 'and not both'),
        ('gke', {'nodes': 2}, '--nodes'),
        ('gke', {'tpu': '', 'gpu': 'b200-8', 'slices': 2}, '--slices=2'),
        (
            'gke',
            {'tpu': '', 'gpu': 'l4-1', 'gpus_per_node': 2},
            '--gpus_per_node=2: l4-1 has 1',
        ),
        ('gke', {'volume': {'/w': 's3://x'}}, 'gs://BUCKET[/FOLDER] or pvc'),
        ('tpu-vm', {'volume': {'/w': 'pvc:x'}}, 'must be gs://BUCKET'),
        ('tpu-vm', {'tpu': 'tpu7x-8'}, "--runtime_version=''"),
        ('tpu-vm', {'spot': True, 'reserved': True}, 'exclude each other'),
        ('xpk', {'cluster': ''}, "--cluster='': --on=xpk needs it"),
        ('xpk', {'priority': 'urgent'}, 'xpk has very-low, low'),
        ('xpk', {'volume': {'/w': 'gs://w'}}, 'it must be storage:NAME'),
    ],
)
def test_refused_by_the_place(place, fields, message):
  with pytest.raises(ValueError) as error:
    _render(_spec(place, **fields))
  assert message in str(error.value)
