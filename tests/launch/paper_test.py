"""Tables of the paper: what they need, how it is run again, what is shown."""

import contextlib
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import gin
import pytest

from launch import __main__ as launch
from launch.paper import command
from launch.paper import spec
from launch.paper import workflow
from user_llm import gin_utils

_TABLES = ('next_item', 'favourite', 'strategies', 'ablations', 'length')


@pytest.fixture(name='data')
def _data(tmp_path):
  folder = tmp_path / 'data'
  folder.mkdir()
  schema = {'modalities': [{'name': 'item'}, {'name': 'genre'}], 'texts': []}
  (folder / 'schema.json').write_text(json.dumps(schema))
  (folder / 'manifest.json').write_text('{"name": "toy"}')
  return folder


@pytest.fixture(name='scale')
def _scale():
  return spec.load_scale('tiny')


class _Trainer:
  """Stands in for `user_llm.main`: notes its runs, writes what they write."""

  def __init__(self, fails=()):
    self.ran = []
    self.fails = fails

  def __call__(self, argv, log):
    (workdir,) = (
        pathlib.Path(a.partition('=')[2])
        for a in argv
        if a.startswith(('--workdir=', '--output='))
    )
    name = workdir.name.removesuffix('-seed0')
    self.ran.append(name)
    if name in self.fails:
      log.write_text('Traceback\nValueError: out of luck\n')
      return 2
    for override in argv:
      if '_CHECKPOINT=' in override:
        start = pathlib.Path(override.partition('=')[2].strip("'"))
        assert (start / 'DONE').exists(), f'{name} began before {start.name}'
    workdir.mkdir(parents=True)
    if '--output=' in ' '.join(argv):
      (workdir / 'cost.json').write_text('{"facts": {"about": "1 CPU"}}')
      (workdir / 'cost.csv').write_text(
          'model,events,events_held,llm_tokens,other\n'
          'text prompt,50,50,700,1\n'
      )
      return 0
    (workdir / 'DONE').touch()
    for task, models in (
        ('events', ('encoder_head', 'dual_encoder', 'bert4rec', 'markov',
                    'popularity')),
        ('next_item', ('user_llm', 'markov', 'popularity')),
        ('favourite_genre', ('user_llm', 'counting_oracle',
                             'most_frequent_genre')),
    ):
      path = workdir / 'eval' / f'toy_{task}' / '40.json'
      path.parent.mkdir(parents=True)
      path.write_text(json.dumps(_evaluation(task, models)))
    return 0


def _evaluation(task, models):
  values = {
      'recall@5/unseen': {'mean': 0.25, 'stderr': 0.01},
      'accuracy': {'mean': 0.5, 'stderr': 0.02},
  }
  return {
      'task': f'toy_{task}', 'split': 'test', 'split_rule': 'leave_one_out',
      'split_fingerprint': 'abc', 'protocol': 'full ranking',
      'num_examples': 200, 'models': {model: values for model in models},
  }


@pytest.fixture(name='paper')
def _paper(tmp_path, data, monkeypatch):
  """Runs the command; the vocabulary and the report are not made."""
  monkeypatch.setattr(command, '_step', lambda *unused, **output: None)

  def run(trainer, *flags, out='out'):
    argv = ['paper', f'--data={data}', f'--out={tmp_path / out}', *flags]
    args = launch._parser().parse_args(argv)
    return command.run(args, lambda folder: contextlib.nullcontext(trainer))

  return run


def _runs(scale):
  tables = spec.load_tables().values()
  return spec.needed([run for table in tables for run in table.runs], scale)


def test_every_run_has_its_files_and_sizes(scale):
  """Of all scales: what `tables.toml` names is there."""
  root = pathlib.Path(spec.__file__).resolve().parents[2] / 'gin'
  for name in spec.scales():
    scale = spec.load_scale(name)
    for run in _runs(scale):
      assert run.sizes and all((root / file).is_file() for file in run.gin)
      assert all(section in scale.sections for section in run.sizes)
  for table in spec.load_tables().values():
    assert set(table.runs) <= spec.load_runs().keys()


@pytest.mark.parametrize('name', spec.scales())
def test_every_run_loads(name, tmp_path):
  """gin has all that a run's files need, and every macro that is set."""
  scale = spec.load_scale(name)
  inputs = workflow.Inputs(
      data=tmp_path / 'data', label='genre',
      vocabulary=None if scale.is_pretrained else tmp_path / 'v',
      weights=str(tmp_path / 'w') if scale.is_pretrained else None,
  )
  for job in workflow.make_jobs(_runs(scale), scale, tmp_path):
    argv = workflow.argv(job, scale, inputs)
    gin.clear_config()
    files = ['runs/cost.gin'] if job.run.mode == 'cost' else []
    gin_utils.load_config(
        files + [a[11:] for a in argv if a.startswith('--gin_file=')],
        [a[6:] for a in argv if a.startswith('--gin.')],
    )
    gin_utils.configured(getattr(
        importlib.import_module(f'user_llm.{job.run.mode}'), job.run.mode
    ))
  gin.clear_config()


def test_needs_come_first_and_once(scale):
  names = [run.name for run in spec.needed(['enc', 'user_llm'], scale)]
  assert names == ['encoder', 'lm', 'enc', 'user_llm']
  pretrained = spec.load_scale('paper')
  names = [run.name for run in spec.needed(['text_prompt', 'enc'], pretrained)]
  assert names == ['text_prompt', 'encoder', 'enc']


def test_a_command(scale, tmp_path):
  (run,) = [r for r in spec.needed(['enc'], scale) if r.name == 'enc']
  job = workflow.Job(run=run, seed=3, folder=tmp_path)
  inputs = workflow.Inputs(
      data=tmp_path / 'd', label='genre', vocabulary=tmp_path / 'v',
      weights=None,
  )
  argv = workflow.argv(job, scale, inputs)
  assert argv[:4] == [sys.executable, '-m', 'user_llm.main', 'train']
  files = [a.partition('=')[2] for a in argv if a.startswith('--gin_file=')]
  assert files[-2:] == ['strategies/enc.gin', 'data/test_at_the_end.gin']
  assert 'strategies/full.gin' not in files
  for flag in (
      f'--workdir={tmp_path}/enc-seed3', '--gin.SEED=3',
      f"--gin.ENCODER_CHECKPOINT='{tmp_path}/encoder-seed3'",
      f"--gin.VOCABULARY='{tmp_path}/v'", '--gin.NUM_STEPS=40',
      "--gin.FAVOURITE_TASK='favourite_genre'",
  ):
    assert flag in argv


@pytest.mark.parametrize('parallel', [1, 3])
def test_all_tables_and_again(paper, tmp_path, capsys, parallel):
  trainer = _Trainer()
  flags = ('--table=all', f'--parallel={parallel}')
  assert paper(trainer, *flags) == 0
  assert len(set(trainer.ran)) == len(trainer.ran) > 20
  text = (tmp_path / 'out' / 'all.md').read_text()
  for name in _TABLES:
    assert f'## {spec.load_tables()[name].title}' in text
  assert 'Review generation' not in text
  assert 'no table review: events have no review' in capsys.readouterr().out
  assert (
      '| User-LLM |  | 0.250 ± 0.010 |  |  | 200 | recall@5 0.154 '
      '(MovieLens-20M) [B]; recall@5 0.047 (Amazon Movies & TV) [B] |'
  ) in text
  assert '| text prompt | 50 | 50 | 700 |' in text and '| other' not in text
  again = _Trainer()
  assert paper(again, *flags) == 0
  assert not again.ran
  assert (tmp_path / 'out' / 'all.md').read_text() == text


def test_another_table_shares_the_runs(paper):
  first, second = _Trainer(), _Trainer()
  assert paper(first, '--table=strategies') == 0
  assert paper(second, '--table=length') == 0
  assert not set(first.ran) & set(second.ran)
  assert set(second.ran) == {
      'short', 'long', 'text_prompt_short', 'text_prompt_long'
  }


def test_a_run_that_fails(paper, tmp_path, capsys):
  trainer = _Trainer(fails=('encoder',))
  assert paper(trainer, '--table=strategies') == 1
  # What does not start from it goes on.
  assert 'random_encoder' in trainer.ran and 'enc' not in trainer.ran
  text = (tmp_path / 'out' / 'strategies.md').read_text()
  assert '| Enc |  |  |  |  |  | what it starts from has failed |' in text
  assert '| Text prompt, full |  | 0.250' in text
  out = capsys.readouterr().out
  assert 'encoder-seed0: failed, exit code 2: a mistake in' in out
  assert '  ValueError: out of luck' in out
  # Mended, the same command does what is missing.
  again = _Trainer()
  assert paper(again, '--table=strategies') == 0
  assert 'random_encoder' not in again.ran and 'enc' in again.ran


def test_a_run_without_its_result(paper, tmp_path):
  trainer = _Trainer()

  def forgets(argv, log):
    trainer(argv, log)
    shutil.rmtree(tmp_path / 'out' / 'runs' / 'lm-seed0', ignore_errors=True)
    return 0

  assert paper(forgets, '--table=strategies') == 1


def test_the_plan_starts_nothing(paper, capsys, tmp_path):
  trainer = _Trainer()
  assert paper(trainer, '--table=length', '--plan') == 0
  assert not trainer.ran and not (tmp_path / 'out').exists()
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 8
  assert all(line.startswith('python -m user_llm.main train') for line in lines)


_SLEEPER = """
import pathlib, signal, sys, time
def end(*unused):
  time.sleep(0.5)  # It saves.
  pathlib.Path(sys.argv[1]).touch()
  sys.exit(42)
signal.signal(signal.SIGTERM, end)
print('ready', flush=True)
time.sleep(60)
"""
_STARTER = """
import pathlib, sys
from launch.paper import workflow
folder = pathlib.Path(sys.argv[1])
with workflow.alone(folder) as call:
  call([sys.executable, '-c', sys.argv[2], sys.argv[3]], folder / 'log')
"""


def test_a_killed_command_lets_its_trainer_save(tmp_path):
  saved = tmp_path / 'saved'
  starter = subprocess.Popen(
      [sys.executable, '-c', _STARTER, tmp_path, _SLEEPER, saved],
      cwd=pathlib.Path(spec.__file__).resolve().parents[2],
  )
  log = tmp_path / 'log'
  while not log.exists() or not log.read_text():
    assert starter.poll() is None
    time.sleep(0.05)
  os.kill(starter.pid, signal.SIGKILL)
  starter.wait()
  with workflow.alone(tmp_path) as call:  # Waits for the trainer.
    assert saved.exists()
    assert call([sys.executable, '-c', 'print("next")'], log) == 0
    assert call([sys.executable, '-c', 'raise SystemExit(2)'], log) == 2
  assert log.read_text().splitlines() == ['ready', 'next']


@pytest.mark.parametrize(
    ['flags', 'message'],
    [
        (['--table=review'], '--table=review: in --data events have no review'),
        (['--table=length', '--scale=huge'], '--scale=huge: one of paper, sm'),
        (['--table=length', '--scale=paper'], 'pretrained decoder: give --wei'),
        (
            ['--table=length', '--scale=paper', '--weights=no/file'],
            '--weights=no/file does not exist',
        ),
        (['--table=length', '--weights=x'], 'its own decoder: drop --weights'),
        (['--table=length', '--parallel=0'], '--parallel=0 must be 1 or more'),
    ],
)
def test_mistakes(paper, flags, message):
  trainer = _Trainer()
  with pytest.raises(ValueError, match=message):
    paper(trainer, *flags)
  assert not trainer.ran


def test_items_without_genres(paper, data, tmp_path, capsys):
  """What asks for them is left out, and told; the rest asks for items."""
  (data / 'schema.json').write_text('{"modalities": [{"name": "item"}]}')
  with pytest.raises(ValueError, match='favourite: in --data items have'):
    paper(_Trainer(), '--table=favourite')
  trainer = _Trainer()
  assert paper(trainer, '--table=all') == 0
  told = capsys.readouterr().out
  assert 'no table favourite: items have neither genres nor' in told
  assert 'no row Text summary in table next_item: items have' in told
  assert 'text_prompt' in trainer.ran and 'text_summary' not in trainer.ran
  text = (tmp_path / 'out' / 'all.md').read_text()
  assert '| User-LLM |' in text and 'Text summary' not in text
  assert 'Favourite' not in text
  assert paper(_Trainer(), '--table=next_item', '--plan') == 0
  plan = capsys.readouterr().out
  assert '--gin_file=data/next_item.gin' in plan
  assert 'favourite' not in plan.lower()


def test_data_that_cannot_be_used(paper, data):
  (data / 'schema.json').unlink()
  with pytest.raises(ValueError, match='no schema.json there. Prepare a data'):
    paper(_Trainer(), '--table=length')
  shutil.rmtree(data)
  with pytest.raises(ValueError, match='is no folder'):
    paper(_Trainer(), '--table=length')


def test_a_folder_of_other_runs(paper, tmp_path):
  text = (pathlib.Path(spec.__file__).parent / 'scales/tiny.toml').read_text()
  mine = tmp_path / 'mine.toml'
  mine.write_text(text.replace('NUM_STEPS = 40', 'NUM_STEPS = 41'))
  assert paper(_Trainer(), '--table=length', f'--scale={mine}') == 0
  with pytest.raises(ValueError, match='has runs of another sections'):
    paper(_Trainer(), '--table=length')


def test_a_folder_of_data_that_were_prepared_anew(
    paper, data, tmp_path, monkeypatch, capsys
):
  assert paper(_Trainer(), '--table=length') == 0
  assert paper(_Trainer(), '--table=length') == 0
  (data / 'manifest.json').write_text('{"name": "toy", "forgotten": 1}')
  out = tmp_path / 'out'
  flags = ['--table=favourite', f'--data={data}', f'--out={out}']
  monkeypatch.setattr(workflow.Workflow, 'run', lambda self: pytest.fail())
  assert launch.main(['paper', *flags]) == 2
  error = capsys.readouterr().err
  assert f'--out={out}: the data of its runs are not those that' in error
  assert 'give another folder' in error and 'Traceback' not in error
  (data / 'manifest.json').unlink()
  with pytest.raises(ValueError, match='the preparation did not finish'):
    paper(_Trainer(), '--table=length', out='other')


def test_macros_belong_into_the_scale(capsys):
  flags = ['--table=length', '--data=x', '--out=y', '--gin.NUM_STEPS=3']
  assert launch.main(['paper', *flags]) == 2
  assert '--gin.NUM_STEPS: the macros of all runs' in capsys.readouterr().err
