"""Quality against cost: of requests with a cost.json, else of training."""

import json

import numpy as np
import pytest
import report_runs

from user_llm.report import __main__ as report
from user_llm.report import cost_quality
from user_llm.report import gathering


def _cost(model, events, tokens):
  return {
      'model': model, 'events': events, 'llm_tokens': tokens,
      'prefill_flops': 1e9 * tokens, 'kv_bytes': 10, 'request_flops': {
          '8': 2e9 * tokens
      },
      'request': {'8': {'median_secs': tokens / 1000}},
  }


def _write_costs(path):
  costs = [
      _cost('text prompt', 50, 700), _cost('text prompt', 200, 2500),
      _cost('User-LLM', 50, 32), _cost('User-LLM, Perceiver', 200, 32),
  ]
  path.mkdir()
  (path / 'cost.json').write_text(
      json.dumps({'facts': {'about': 'some CPU'}, 'costs': costs})
  )


def _write_runs(tmp_path):
  for name, macros, trainable in (
      ('text', '', 100), ('user', 'RESAMPLER = @x.ResamplerConfig()', 200)
  ):
    encoder = 'ENCODER = @x()\n' if macros else ''
    report_runs.write(
        tmp_path / name, {'user_llm': {'rank/unseen': np.arange(1, 9)}},
        config=f'{encoder}{macros}\nSEED = {{seed}}\n',
    )
    (tmp_path / name / 'run.json').write_text(
        json.dumps({'name': name, 'num_trainable': trainable * 10**6})
    )
  return [str(tmp_path / name) for name in ('text', 'user')]


def _chart(inputs):
  found = gathering.gather(inputs)
  (table,) = found.tables
  return cost_quality.draw(table, found.runs, found.costs)


def test_costs_of_requests(tmp_path):
  workdirs = _write_runs(tmp_path)
  _write_costs(tmp_path / 'cost')
  for given in (tmp_path / 'cost', tmp_path / 'cost' / 'cost.json'):
    chart = _chart([*workdirs, str(given)])
    for text in (
        'LLM tokens of a request', 'GFLOP, 8 new tokens', 'ms, 8 new tokens',
        'recall@10 against cost', 'user', 'text',
    ):
      assert text in chart
  output = tmp_path / 'r.html'
  flags = ['--workdirs', *workdirs, str(tmp_path / 'cost')]
  assert report.main([*flags, '--output', str(output)]) == 0
  page = output.read_text()
  assert 'What a request costs' in page and '200 events; some CPU' in page


def test_costs_of_training_else(tmp_path):
  workdirs = _write_runs(tmp_path)
  for secs, workdir in enumerate(workdirs, 1):
    report_runs.write_metrics(
        tmp_path / workdir.rsplit('/', 1)[-1],
        [
            {'step': 10, 'train/wall_secs': 100},
            {'step': 20, 'train/wall_secs': 100 + 10 * secs},
        ],
    )
  chart = _chart(workdirs)
  assert 'million parameters that train' in chart
  assert 'seconds a training step' in chart
  assert 'LLM tokens' not in chart
  # One of them alone has nothing to be set against.
  assert _chart(workdirs[:1]) is None


@pytest.mark.parametrize(
    ['macros', 'name'],
    [
        ({}, 'text prompt'),
        (
            {'ENCODER': '@x()', 'RESAMPLER': '@resampler.NoResamplerConfig()'},
            'User-LLM',
        ),
        ({'ENCODER': '@x()', 'RESAMPLER': '@y.LastEventConfig()'}, ''),
        ({'PROMPT_TOKENS': '500', 'SUMMARY_LABELS': '6'}, ''),
        (
            {
                'ENCODER': '@x()', 'RESAMPLER': '@resampler.ResamplerConfig()',
                'PROMPT_TOKENS': '160',
            },
            '',
        ),
        (
            {'ENCODER': '@x()', 'RESAMPLER': '@resampler.ResamplerConfig()'},
            'User-LLM, Perceiver',
        ),
        (
            {
                'ENCODER': '@x()', 'RESAMPLER': '@resampler.ResamplerConfig()',
                'SOFT_PROMPT_TASK_TOKENS': '10',
            },
            'User-LLM, Perceiver, soft prompt',
        ),
    ],
)
def test_names_of_architectures(macros, name):
  assert cost_quality.cost_name(macros) == name


@pytest.mark.parametrize('text', ['{"costs": []}', '{"costs": [{}]}', '{}'])
def test_another_json(tmp_path, text):
  (tmp_path / 'cost.json').write_text(text)
  with pytest.raises(ValueError, match='is no cost.json of'):
    gathering.gather([str(tmp_path)])
