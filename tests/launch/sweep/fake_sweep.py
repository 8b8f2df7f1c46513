"""A sweep whose trials are a few lines of Python, for tests of the workers."""

import json
import pathlib
import sys
import time

from launch.sweep import check
from launch.sweep import expand
from launch.sweep import folder as folder_lib
from launch.sweep import spec as spec_lib

METRIC = 'eval/t/row/recall'
BASE = {'A': '0', 'SEED': '0'}
# Before the code of a trial: what it gets and what it may call.
PRELUDE = '''
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
bindings = json.loads((folder / 'trial.json').read_text())['bindings']
run = folder / 'run'
run.mkdir(exist_ok=True)
a, seed = bindings['A'], bindings['SEED']
def note(name):
  (run / name).open('a').write('x')
  return len((run / name).read_text())
def measure(value, name=%r):
  row = json.dumps({'step': 1, name: value})
  (run / 'metrics.jsonl').open('a').write(row + '\\n')
def save(step):
  (run / 'checkpoints' / str(step)).mkdir(parents=True, exist_ok=True)
start = note('starts')
''' % METRIC


def make_spec(values, seeds=(0,), **fields):
  return spec_lib.SweepSpec(
      name='fake',
      base=['fake.gin'],
      objective=spec_lib.Objective(metric=METRIC, is_max=True),
      seeds=list(seeds),
      grid={'A': tuple(map(str, values))},
      **fields,
  )


def checker(gin_files, variants, config='# base\n'):
  """Takes what the texts say; A = -1 is a mistake."""
  del gin_files
  return check.Checked(error=None, config=config, values=BASE), [
      check.Checked(error='A must not be negative.')
      if variant['A'] == '-1'
      else check.Checked(
          error=None, config=f'A = {variant["A"]}\n', values=variant
      )
      for variant in variants
  ]


def prepare(folder: pathlib.Path, spec) -> folder_lib.Plan:
  variants = expand.variants(spec)
  base, checked = folder_lib.check(folder, spec, variants, checker)
  return folder_lib.prepare(folder, spec, base, checked)


def command(code):
  """The command of a trial that is this code."""
  return lambda trial: [
      sys.executable, '-S', '-c', PRELUDE + code, str(trial.path)
  ]


def count(trial, name):
  path = trial.workdir / name
  return len(path.read_text()) if path.exists() else 0


def attempts(trial):
  path = trial.path / 'attempts.jsonl'
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def until(condition, secs=60.0):
  end = time.monotonic() + secs
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.005)
