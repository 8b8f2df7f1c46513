"""Tests of the HTML page, the printed tables and the command."""

import csv
import html.parser
import io
import json
import pathlib
import re

import numpy as np
import pytest
import report_runs
from rich import console as rich_console

from user_llm.report import __main__ as report
from user_llm.report import gathering
from user_llm.report import plots
from user_llm.report import printing


@pytest.fixture(name='workdir')
def _workdir(tmp_path) -> pathlib.Path:
  workdir = tmp_path / 'my_run'
  (workdir / 'eval' / 'x_next_item').mkdir(parents=True)

  def metrics(recall: float) -> dict[str, dict[str, float]]:
    return {
        f'recall@{k}/{policy}': {'mean': recall * k / 10, 'stderr': 0.0125}
        for k in (1, 10)
        for policy in ('all', 'unseen')
    }

  evaluation = {
      'task': 'x_next_item',
      'split': 'test',
      'step': 1500,
      'num_examples': 1234,
      'split_rule': 'leave_one_out',
      'split_fingerprint': '0123abcd',
      'seed': 0,
      'protocol': 'beam search, 20 beams',
      'models': {
          'user_llm': metrics(0.5),
          'markov': metrics(0.25),
          'bayes_optimal': metrics(0.75),
      },
      'examples': [
          {
              'user': '17',
              'history': [f'Film {i}' for i in range(40)],
              'question': 'What next?',
              'answers': [
                  {'text': 'Right & <good>', 'score': -1.5},
                  {'text': 'Wrong', 'score': -2.0},
              ],
              'truth': 'Right & <good>',
          }
      ],
  }
  path = workdir / 'eval' / 'x_next_item' / '1500.json'
  path.write_text(json.dumps(evaluation))
  (workdir / 'run.json').write_text(
      json.dumps({
          'name': 'my_run',
          'command': 'python -m user_llm.main train',
          'hardware': 'a CPU, 2 cores',
          'seed': 3,
          'num_params': 1234567,
          'wall_secs': 3725.2,
      })
  )
  rows = [{'step': s, 'train/loss': 9.0 / s} for s in range(1, 5)]
  rows += [{'step': 4, 'eval/x_next_item/user_llm/recall@10/unseen': 0.5}]
  (workdir / 'metrics.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in rows)
  )
  return workdir


class _Text(html.parser.HTMLParser):
  """Collects the text and the tags that would load something."""

  def __init__(self):
    super().__init__()
    self.text = []
    self.loads = []
    self.hits = 0

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    self.hits += attributes.get('class') == 'hit'
    if tag in ('script', 'link', 'img') or 'src' in attributes:
      self.loads.append(tag)

  def handle_data(self, data):
    self.text.append(data)


def test_page(workdir, tmp_path, capsys):
  output = tmp_path / 'out' / 'report.html'
  flags = ['--workdirs', str(workdir), '--output', str(output)]
  assert report.main([*flags, '--title', 'My title']) == 0
  assert str(output) in capsys.readouterr().out
  page = output.read_text()
  parser = _Text()
  parser.feed(page)
  text = re.sub(r'\s+', ' ', ' '.join(parser.text))
  for expected in (
      'My title',
      '0.500 ±0.013',
      '1,234',
      '0123abcd',
      'leave_one_out',
      'beam search, 20 beams',
      'python -m user_llm.main train',
      'a CPU, 2 cores',
      '1,234,567',
      '1 h 2 min',
      'Right & <good>',
      '… and 28 earlier',
      'training loss',
      'Bayes-optimal',
  ):
    assert expected in text
  assert parser.hits == 1
  assert not parser.loads
  assert page.count('<svg') == 2
  assert not re.search(r'url\((?!#)', page)


def test_the_same_input_gives_the_same_page(workdir, tmp_path):
  pages = []
  for name in ('a.html', 'b.html'):
    found = gathering.gather([str(workdir)])
    report.write_report(report=found, output=str(tmp_path / name))
    pages.append((tmp_path / name).read_bytes())
  assert pages[0] == pages[1]


def test_markdown(workdir, tmp_path):
  report.write_report(
      report=gathering.gather([str(workdir)]), output=str(tmp_path / 'r.html')
  )
  lines = (tmp_path / 'r.md').read_text().splitlines()
  assert '| model | recall@1 | recall@10 | n | seeds | run | step |' in lines
  best = '| User-LLM (text) | **0.050 ±0.013** | **0.500 ±0.013** | 1234 |'
  assert any(line.startswith(best) for line in lines)
  ceiling = '| Bayes-optimal | 0.075 ±0.013 | 0.750 ±0.013 | 1234 |'
  assert any(line.startswith(ceiling) for line in lines)


def test_printed_table(workdir):
  out = io.StringIO()
  printing.print_report(
      gathering.gather([str(workdir)]), rich_console.Console(file=out, width=80)
  )
  assert 'x: next item, seen items removed' in out.getvalue()
  words = ' '.join(out.getvalue().split())
  assert 'User-LLM (text) .050±.013 .500±.013' in words
  assert 'n = 1234' in out.getvalue()
  assert 'Protocol: beam search, 20 beams' in words


def test_nothing_evaluated_yet(tmp_path, capsys):
  flags = ['--workdirs', str(tmp_path), '--output', str(tmp_path / 'r.html')]
  assert report.main(flags) == 0
  assert 'No evaluations yet' in capsys.readouterr().out


def test_missing_workdir(tmp_path, capsys):
  flags = ['--workdirs', str(tmp_path / 'no'), '--output', str(tmp_path / 'r.html')]
  assert report.main(flags) == 2
  assert 'is not a directory' in capsys.readouterr().err
  assert not (tmp_path / 'r').exists()


def test_differences_from_a_row(tmp_path, capsys):
  """In the page, the Markdown, the CSV and on the terminal."""
  n = np.arange(40)
  workdir = tmp_path / 'run'
  report_runs.write(
      workdir,
      {
          'user_llm': {'rank/unseen': n % 2 + 1, 'answer_nats': n / 10},
          'markov': {'rank/unseen': 20 - n % 2},
      },
  )
  flags = ['--workdirs', str(workdir), '--output', str(tmp_path / 'r.html')]
  assert report.main(flags) == 0
  out = ' '.join(capsys.readouterr().out.split())
  assert 'Difference from Markov: recall@10' in out
  assert 'User-LLM (text) +1.000 [+1.000, +1.000] p < .001' in out
  page = (tmp_path / 'r.html').read_text()
  assert 'Difference from Markov' in page
  assert 'p &lt; .001' in page
  assert '**+1.000 [+1.000, +1.000] p < .001**' in (
      tmp_path / 'r.md'
  ).read_text()
  with (tmp_path / 'r.csv').open() as file:
    lines = list(csv.DictReader(file))
  # Five metrics of each ranking, and one more.
  assert len(lines) == 11
  (line,) = [
      line for line in lines
      if (line['model'], line['metric']) == ('user_llm', 'recall@10')
  ]
  assert line['policy'] == 'unseen' and line['mean'] == '1.0'
  assert line['against'] == 'markov/run' and line['difference'] == '1.0'
  assert line['stderr_over'] == 'examples' and line['seeds'] == '0'
  assert line['p_value'] == '0.0002' and line['comparable'] == 'True'
  (line,) = [line for line in lines if line['metric'] == 'answer_nats']
  assert line['policy'] == '' and line['difference'] == ''


def test_dollars_in_charts_are_no_mathematics(tmp_path):
  names = ('Cost in $%$', 'Gifts $10 to $25')
  for name in names:
    report_runs.write(
        tmp_path / name, {'user_llm': {'accuracy': [1, 0]}},
        config=f"NAME = '{name}'",
    )
  found = gathering.gather([str(tmp_path / name) for name in names])
  bars = plots.bars(found.tables[0])
  for name in names:
    assert f'>{name}</text>' in bars


def test_runs_of_one_name_in_folders_of_one_name(tmp_path):
  for out in ('out1', 'out2'):
    for run in ('user_llm-seed0', 'lora-seed0'):
      report_runs.write(
          tmp_path / out / 'runs' / run, {'user_llm': {'accuracy': [1, 0]}},
          config=report_runs.CONFIG + out + run,
      )
  workdirs = sorted(map(str, tmp_path.glob('*/runs/*-seed0')))
  found = gathering.gather([*workdirs, workdirs[0]])
  assert sorted(run.name for run in found.runs) == [
      f'{out}/runs/{run}-seed0'
      for out in ('out1', 'out2') for run in ('lora', 'user_llm')
  ]


@pytest.mark.parametrize('name', ['r.md', 'r', 'folder.html'])
def test_a_page_that_cannot_be_written(tmp_path, capsys, name):
  (tmp_path / 'folder.html').mkdir()
  report_runs.write(tmp_path / 'run', {'user_llm': {'accuracy': [1, 0]}})
  flags = ['--workdirs', str(tmp_path / 'run')]
  try:
    code = report.main([*flags, '--output', str(tmp_path / name)])
  except SystemExit as error:
    code = error.code
  assert code == 2
  assert name in capsys.readouterr().err


def test_broken_examples(tmp_path, capsys):
  path = report_runs.write(
      tmp_path / 'run', {'user_llm': {'accuracy': [1, 0]}}
  )
  path.with_suffix('.npz').write_bytes(b'PK')
  flags = ['--output', str(tmp_path / 'r.html')]
  assert report.main(['--workdirs', str(tmp_path / 'run'), *flags]) == 2
  assert '10.npz is broken' in capsys.readouterr().err
