"""Folders of sweeps: rows by macro, effects, and trials without results."""

import json

import numpy as np
import pytest
import report_runs

from user_llm.report import __main__ as report
from user_llm.report import effects
from user_llm.report import gathering
from user_llm.report import sweeps

_VARYING = ['LEARNING_RATE', 'LORA_RANK']


def _trial(root, name, bindings, accuracy=None):
  folder = root / 'trials' / name
  folder.mkdir(parents=True)
  if accuracy is not None:
    report_runs.write(
        folder / 'run', {'user_llm': {'accuracy': accuracy}},
        seed=int(bindings['SEED']), task='x_favourite_genre',
    )
  trial = {'bindings': bindings, 'varying': _VARYING}
  (folder / 'trial.json').write_text(json.dumps(trial))
  return folder


@pytest.fixture(name='sweep')
def _sweep(tmp_path):
  """Two rates, two ranks, two seeds; three trials are not done."""
  root = tmp_path / 'my_sweep'
  number = 0
  for rate in ('0.001', '0.01'):
    for rank in ('4', '16'):
      for seed in '01':
        bindings = {
            'LEARNING_RATE': rate, 'LORA_RANK': rank, 'SEED': seed, 'WIDTH': '8'
        }
        accuracy = [rate == '0.01', rank == '16', seed == '1', 0]
        done = rate == '0.001' or rank == '4'
        _trial(root, f'{number:04x}', bindings, accuracy if done else None)
        number += 1
  started = root / 'trials' / '0007' / 'run'
  started.mkdir()
  report_runs.write_metrics(started, [{'step': 20, 'train/loss': 1.0}])
  (root / 'trials' / 'ffff').mkdir()
  return root


def test_rows_by_what_varies(sweep):
  found = gathering.gather([str(sweep)])
  (table,) = found.tables
  assert [row.run for row in table.rows] == [
      'LEARNING_RATE=0.001, LORA_RANK=4',
      'LEARNING_RATE=0.001, LORA_RANK=16',
      'LEARNING_RATE=0.01, LORA_RANK=4',
  ]
  assert [row.seeds for row in table.rows] == [(0, 1)] * 3
  means = [row.metrics['accuracy'].mean for row in table.rows]
  # A quarter for each of rate, rank; the second seed has one more.
  assert means == pytest.approx([0.125, 0.375, 0.375])
  assert found.varying == tuple(_VARYING)


def test_trials_without_results(sweep, tmp_path, capsys):
  found = gathering.gather([str(sweep)])
  assert {trial.name: trial.state for trial in found.unfinished} == {
      'LEARNING_RATE=0.01, LORA_RANK=16, SEED=0': 'not started',
      'LEARNING_RATE=0.01, LORA_RANK=16, SEED=1': (
          'unfinished, at step 20, not evaluated'
      ),
      'ffff': 'has no trial.json yet',
  }
  flags = ['--workdirs', str(sweep), '--output', str(tmp_path / 'r.html')]
  assert report.main(flags) == 0
  out = ' '.join(capsys.readouterr().out.split())
  assert 'Trial LEARNING_RATE=0.01, LORA_RANK=16, SEED=0: not started.' in out
  for name in ('r.html', 'r.md'):
    text = (tmp_path / name).read_text()
    assert 'Unfinished trials' in text and 'unfinished, at step 20' in text
  assert '6 runs' in (tmp_path / 'r.html').read_text()


def test_trained_but_not_evaluated(sweep):
  (sweep / 'trials' / '0007' / 'run' / 'DONE').touch()
  states = [trial.state for trial in sweeps.load(str(sweep)).unfinished]
  assert 'trained, not evaluated' in states


def test_main_effects(sweep):
  found = gathering.gather([str(sweep)])
  (table,) = found.tables
  macros = effects.row_macros(table, found.runs)
  chart = effects.main_effects(table, macros, found.varying)
  for text in ('LEARNING_RATE', 'LORA_RANK', '0.01', '>4<', '>16<', 'accuracy'):
    assert text in chart
  # Numbers by size, not as text.
  assert chart.index('>4<') < chart.index('>16<')
  assert effects.main_effects(table, macros, ['WIDTH']) is None
  # A kind of run that has no such macro says nothing about it.
  (row, *_) = macros
  macros = {**macros, row: {'LEARNING_RATE': '0.5'}}
  chart = effects.main_effects(table, macros, found.varying)
  assert 'LEARNING_RATE' in chart and 'LORA_RANK' not in chart


@pytest.mark.parametrize(
    ['text', 'message'],
    [
        ('{', 'trial.json is no valid JSON'),
        ('{"bindings": {}}', 'needs "bindings", an object, and "varying"'),
        (
            '{"bindings": {}, "varying": ["A"]}',
            'A of "varying" are not in "bindings"',
        ),
    ],
)
def test_broken_trials(sweep, text, message):
  (sweep / 'trials' / '0001' / 'trial.json').write_text(text)
  with pytest.raises(ValueError, match=message):
    gathering.gather([str(sweep)])


def test_a_sweep_without_trials(tmp_path):
  (tmp_path / 'trials').mkdir()
  with pytest.raises(ValueError, match='the sweep has no trials yet'):
    gathering.gather([str(tmp_path)])


def _of_lengths(tmp_path, lengths, rank=''):
  for length in lengths:
    report_runs.write(
        tmp_path / f'r{rank}_{length}',
        {'user_llm': {'rank/unseen': np.arange(1, 9)}},
        config=f"HISTORY_LENGTH = {length}\nENCODER_CHECKPOINT = '{length}'\n"
        + f'RANK = {rank or 0}\nSEED = {{seed}}\n',
    )


def _lengths_chart(tmp_path):
  found = gathering.gather(list(map(str, tmp_path.iterdir())))
  (table,) = found.tables
  return effects.history_lengths(table, effects.row_macros(table, found.runs))


def test_recall_by_history_length(tmp_path):
  _of_lengths(tmp_path, (50, 100, 200), rank='8')
  _of_lengths(tmp_path, (50, 200), rank='16')
  chart = _lengths_chart(tmp_path)
  for text in (
      'recall@10 by HISTORY_LENGTH', '>50<', '>100<', '>200<',
      'User-LLM (text), RANK=8', 'User-LLM (text), RANK=16',
  ):
    assert text in chart


def test_one_history_length_has_no_chart(tmp_path):
  _of_lengths(tmp_path, (50,), rank='8')
  _of_lengths(tmp_path, (100,), rank='16')
  assert _lengths_chart(tmp_path) is None


def test_checkpoints_at_one_length_are_no_line(tmp_path):
  """One would hide the other."""
  for encoder in ('dual', 'next_event'):
    for length in (50, 100):
      report_runs.write(
          tmp_path / f'{encoder}_{length}',
          {'user_llm': {'rank/unseen': np.arange(1, 9)}},
          config=f'HISTORY_LENGTH = {length}\n'
          f"ENCODER_CHECKPOINT = '{encoder}{length}'\n",
      )
  assert _lengths_chart(tmp_path) is None


def _text_prompts(tmp_path, sizes):
  """A run each: HISTORY_LENGTH, PROMPT_TOKENS, TEXT_LENGTH and BATCH_SIZE."""
  for length, tokens, text_length, batch_size in sizes:
    report_runs.write(
        tmp_path / f'text_{length}_{tokens}',
        {'user_llm': {'rank/unseen': np.arange(1, 9)}},
        config=f'HISTORY_LENGTH = {length}\nPROMPT_TOKENS = {tokens}\n'
        f'TEXT_LENGTH = {text_length}\nBATCH_SIZE = {batch_size}\n'
        'PROMPT_EVENTS = None\nSEED = {seed}\n',
    )


def _embeddings(tmp_path, sizes):
  """A run each: HISTORY_LENGTH and BATCH_SIZE."""
  for length, batch_size in sizes:
    report_runs.write(
        tmp_path / f'user_{length}',
        {'user_llm': {'rank/unseen': np.arange(1, 9)}},
        config=f'HISTORY_LENGTH = {length}\nBATCH_SIZE = {batch_size}\n'
        'ENCODER = @x.Encoder()\nPROMPT_TOKENS = 0\nTEXT_LENGTH = 16\n',
    )


def test_text_prompts_by_history_length(tmp_path):
  """With the sizes of launch/paper/scales/small.toml."""
  _text_prompts(
      tmp_path,
      [(50, 250, 266, 16), (100, 500, 516, 8), (200, 1000, 1016, 4)],
  )
  chart = _lengths_chart(tmp_path)
  for text in (
      '>50<', '>100<', '>200<', '>Text prompt<',
      '(text prompts differ in PROMPT_TOKENS, TEXT_LENGTH, BATCH_SIZE too)',
  ):
    assert text in chart
  _embeddings(tmp_path, [(50, 16), (200, 16)])
  both = _lengths_chart(tmp_path)
  assert '>Text prompt<' in both and '>User-LLM (text)<' in both


def test_sizes_of_a_text_prompt_at_one_length_are_lines(tmp_path):
  _text_prompts(
      tmp_path, [(50, 250, 516, 8), (100, 250, 516, 8), (100, 500, 516, 8)]
  )
  assert '>100<' in _lengths_chart(tmp_path)
  assert 'differ in' not in _lengths_chart(tmp_path)
  _text_prompts(tmp_path, [(50, 500, 516, 8)])
  chart = _lengths_chart(tmp_path)
  for tokens in (250, 500):
    assert f'>Text prompt, PROMPT_TOKENS={tokens}<' in chart


def test_batches_tell_lines_of_embeddings_apart(tmp_path):
  _embeddings(tmp_path, [(50, 16), (100, 8)])
  assert _lengths_chart(tmp_path) is None
