"""Fuzzes job files, sweep files and flags of `python -m launch`."""

import pathlib

from hypothesis import strategies as st
import pytest

import fuzzing
from launch import __main__ as launch_main
from launch import flags
from launch import spec as spec_lib
from launch.paper import spec as paper_spec
from launch.sweep import expand
from launch.sweep import spec as sweep_spec

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_JOBS = tuple(
    path.read_bytes()
    for path in sorted((_ROOT / 'launch' / 'examples').glob('*.toml'))
)
_SWEEP = b'''
[sweep]
name = 'rates'
base = ['experiments/x.gin']
objective = 'max eval/x/recall@10'
seeds = [0, 1]
retries = 2
[set]
NUM_STEPS = 300
TASK = '@x.Y()'
[grid]
LEARNING_RATE = [1e-3, 3e-3]
[[zip]]
LAYERS = [2, 4]
DIM = [64, 128]
[random]
n = 3
seed = 7
WEIGHT_DECAY = {log = [1e-4, 1e-1]}
DROPOUT = {uniform = [0, 0.5]}
HEADS = {choice = [1, 2]}
[when]
WARMUP = {if = {LAYERS = 4}, values = [50, {gin = 'None'}]}
'''
_SCALE = (_ROOT / 'launch' / 'paper' / 'scales' / 'tiny.toml').read_bytes()
# Nobody reads more trials than this; a file may ask for any number.
_MAX_TRIALS = 2_000


def test_the_originals_are_read(tmp_path):
  path = tmp_path / 'x.toml'
  for job in _JOBS:
    path.write_bytes(job)
    spec_lib.JobSpec(**flags.load(str(path)))
  path.write_bytes(_SCALE)
  assert paper_spec.load_scale(str(path)).seeds == (0,)
  path.write_bytes(_SWEEP)
  assert len(expand.variants(sweep_spec.load(str(path)))) == 2 * 3 * 3 * 2


@fuzzing.fuzz(fuzzing.edited(*_JOBS), quick=500, slow=10_000)
def test_job_files(case, tmp_path):
  path = tmp_path / 'x.toml'
  path.write_bytes(case)
  with fuzzing.only_mistakes():
    values = flags.load(str(path))
    if {'name', 'workdir'} <= values.keys():
      spec_lib.JobSpec(**values)


@fuzzing.fuzz(fuzzing.edited(_SWEEP), quick=500, slow=10_000)
def test_sweep_files(case, tmp_path):
  path = tmp_path / 'x.toml'
  path.write_bytes(case)
  with fuzzing.only_mistakes():
    found = sweep_spec.load(str(path))
    if found.draws < _MAX_TRIALS:
      expand.variants(found)


@fuzzing.fuzz(fuzzing.edited(_SCALE), quick=300, slow=6_000)
def test_scales_of_the_paper(case, tmp_path):
  path = tmp_path / 'x.toml'
  path.write_bytes(case)
  with fuzzing.only_mistakes():
    paper_spec.load_scale(str(path))


@pytest.fixture(name='plan')
def _plan(tmp_path):
  return tmp_path / 'plan'


@fuzzing.fuzz(
    st.lists(
        st.builds(
            '--{}={}'.format,
            st.sampled_from([*sorted(spec_lib.fields()), 'gin.X', 'gin.a b']),
            st.sampled_from(fuzzing.NASTY)
            | st.text(max_size=12)
            | st.sampled_from(['local:2', 'slurm', 'gke', 'v6e-16', 'A=b']),
        ),
        max_size=4,
    ),
    quick=150,
    slow=1_500,
)
def test_flags(case, plan):
  """A plan is written whole or not at all."""
  argv = [
      'render', '--name=a', '--workdir=/w', '--gin_file=x.gin',
      f'--out={plan}', *case,
  ]
  try:
    code = launch_main.main(argv)
  except SystemExit as stop:  # argparse's.
    code = stop.code
  assert code in (0, 2)
  if code:
    assert not plan.exists()
  for path in sorted(plan.rglob('*'), reverse=True):
    path.rmdir() if path.is_dir() else path.unlink()
  if plan.exists():
    plan.rmdir()
