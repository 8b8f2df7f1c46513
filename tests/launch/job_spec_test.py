"""Tests of jobs from flags and files, and of what is refused."""

import argparse
import dataclasses

import pytest

from launch import flags
from launch import spec as spec_lib

_BASE = {'name': 'a', 'workdir': 'runs/a', 'gin_file': ('x.gin',)}


def _spec(**fields):
  return spec_lib.JobSpec(**{**_BASE, **fields})


def _parse(*argv):
  rest, gin = flags.split_gin(argv)
  parser = argparse.ArgumentParser()
  flags.add(parser)
  return flags.make_spec(parser.parse_args(rest), gin)


def test_flags_and_file_say_the_same(tmp_path):
  job = tmp_path / 'job.toml'
  job.write_text('''
name = 'a'
on = 'slurm'
workdir = 'runs/a'
gin_file = ['x.gin', 'y.gin']
nodes = 2
slurm_args = ['--partition=gpu']
[gin]
STEPS = 10
RATE = 1e-3
DATA = "a 'b' \\"c\\""
MODEL = '@Model()'
FLAGS = [1, 'a']
[env]
B = '2'
A = '1=x'
[secret]
T = 'file:/t'
''')
  by_flags = _parse(
      '--name=a', '--on=slurm', '--workdir=runs/a', '--gin_file=x.gin',
      '--gin_file', 'y.gin', '--nodes=2', '--slurm_args=--partition=gpu',
      '--gin.STEPS=10', '--gin.RATE=0.001', '--gin.MODEL=@Model()',
      '--gin.DATA="a \'b\' \\"c\\""', "--gin.FLAGS=[1, 'a']", '--env=A=1=x',
      '--env', 'B=2', '--secret=T=file:/t',
  )
  assert _parse(str(job)) == by_flags
  assert list(by_flags.env) == ['A', 'B']


def test_flags_win_over_the_file(tmp_path):
  job = tmp_path / 'job.toml'
  job.write_text(
      "name = 'a'\nworkdir = 'w'\ngin_file = ['x']\n[gin]\nA = 1\nB = 2\n"
  )
  spec = _parse(str(job), '--workdir=v', '--gin.B=3', '--on=local:4')
  assert spec.workdir == 'v'
  assert spec.gin == {'A': '1', 'B': '3'}
  assert (spec.backend, spec.local_processes) == ('local', 4)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('nodess = 2', "job.toml: unknown key 'nodess'. Did you mean nodes?"),
        ('name = ', 'job.toml: Invalid value'),
        ('gin = 3', 'gin must be a table'),
        ('[gin]\nA = 2020-01-01', 'gin.A must be a text, number or list'),
    ],
)
def test_bad_file(tmp_path, text, message):
  (tmp_path / 'job.toml').write_text(text)
  with pytest.raises(ValueError) as error:
    flags.load(str(tmp_path / 'job.toml'))
  assert message in str(error.value)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ((), '--name must be given'),
        (('--name=a', '--gin.X'), '--gin.X: must be --gin.NAME=VALUE'),
        (('--name=a', '--env=X'), "--env='X': must be --env=NAME=VALUE"),
    ],
)
def test_bad_flags(argv, message):
  with pytest.raises(ValueError) as error:
    _parse(*argv)
  assert message in str(error.value)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'name': 'A_b'}, "--name='A_b': must be a-z, 0-9 and -"),
        ({'name': 'a' * 41}, 'at most 40'),
        ({'workdir': ''}, '--workdir'),
        ({'on': 'slurmm'}, 'Did you mean slurm?'),
        ({'on': 'slurm:2'}, 'only local takes a number'),
        ({'on': 'local:0'}, 'only local takes a number: local:2'),
        ({'nodes': 2}, '--nodes=2: is for --on=slurm or gke; leave it out'),
        ({'on': 'slurm', 'nodes': 0}, '--nodes=0: must be at least 1'),
        ({'on': 'slurm', 'nodes': '2'}, "--nodes='2': must be an integer"),
        ({'on': 'slurm', 'nodes': True}, 'must be an integer'),
        ({'gin_file': 'x.gin'}, '--gin_file'),
        ({'gin_file': ()}, 'training needs at least one'),
        ({'env': {'A': 1}}, 'must be a table of texts'),
        ({'env': {'A B': '1'}}, "'A B' is no name of a variable"),
        ({'gin': {'A B': '1'}}, "'A B' is no name of a gin macro"),
        ({'mode': 'tain'}, '--mode'),
        ({'mode': 'infer'}, "--input='': infer needs it"),
        ({'input': 'x'}, "--input='x': train has none"),
        ({'args': ('a\0b',)}, 'NUL'),
        ({'args': ('a\ud800b',)}, 'half a character'),
    ],
)
def test_refused(fields, message):
  with pytest.raises(ValueError) as error:
    _spec(**fields)
  assert message in str(error.value)


@pytest.mark.parametrize(
    'fields',
    [
        {'env': {'HF_TOKEN': 'abc'}},
        {'env': {'MY_API_KEY': 'abc'}},
        {'env': {'X': 'hf_' + 'a' * 30}},
        {'args': ('--x=ghp_' + 'a' * 30,)},
        {'gin': {'X': '"AKIA' + 'A' * 16 + '"'}},
        {'workdir': 'https://me:pass@host/x'},
        {'args': ('-----BEGIN RSA PRIVATE KEY-----',)},
    ],
)
def test_a_secret_is_refused_and_not_repeated(fields):
  with pytest.raises(ValueError, match='by reference') as error:
    _spec(**fields)
  (value,) = fields.values()
  text = value if isinstance(value, str) else str(*getattr(
      value, 'values', lambda: value)())
  assert text not in str(error.value) or text == 'abc'


def test_what_is_no_secret():
  env = {
      'MAX_TOKENS': '512',
      'TOKENIZERS_PARALLELISM': 'false',
      'GOOGLE_APPLICATION_CREDENTIALS': '/etc/key.json',
      'URL': 'http://host:80/a@b',
  }
  assert _spec(env=env).env == env


def test_every_field_has_help():
  for field in dataclasses.fields(spec_lib.JobSpec):
    assert field.metadata['help']
