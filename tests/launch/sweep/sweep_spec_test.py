"""Tests of reading a sweep's TOML: what is right, and each way to be wrong."""

import pathlib

import gin
import pytest

from launch.sweep import check
from launch.sweep import expand
from launch.sweep import spaces
from launch.sweep import spec as spec_lib
from user_llm import gin_utils
from user_llm import train

_EXAMPLES = pathlib.Path(check.__file__).parents[1] / 'examples' / 'sweeps'
_HEAD = '''
[sweep]
name = 'rates'
base = ['a.gin']
objective = 'max eval/t/row/recall@10/unseen'
'''


@pytest.fixture(name='load')
def _load(tmp_path):
  def load(text, head=_HEAD, **gin):
    path = tmp_path / 'sweep.toml'
    path.write_text(head + text)
    return spec_lib.load(str(path), gin)

  return load


@pytest.mark.parametrize(
    ['name', 'trials'], [('rates', 6), ('ml_1m_features', 18)]
)
def test_examples(name, trials):
  spec = spec_lib.load(str(_EXAMPLES / f'{name}.toml'))
  variants = expand.variants(spec)
  assert len(variants) == trials
  for variant in variants:
    gin.clear_config()
    gin_utils.load_config(spec.base, check.overrides(variant))
    gin_utils.configured(train.train)
  gin.clear_config()


def test_everything(load):
  spec = load('''
seeds = [0, 3]
retries = 1
[set]
DATA_DIR = 'some/path'
OPTIMIZER = '@optimizers.AdamW()'
TARGETS = {gin = 'None'}
[grid]
LEARNING_RATE = [1e-3, 1]
MODALITIES = [['item'], ['item', 'genre']]
[[zip]]
LAYERS = [1, 2]
WIDTH = [8, 16]
[random]
n = 4
seed = 7
DECAY = {log = [1e-3, 1e-1]}
KIND = {choice = ['a', 'b']}
[when]
HEADS = {if = {KIND = 'b', LAYERS = [1, 2]}, values = [1, 4]}
''', DATA_DIR='"other"')
  assert spec.objective == spec_lib.Objective(
      metric='eval/t/row/recall@10/unseen', is_max=True
  )
  assert (spec.seeds, spec.retries) == ([0, 3], 1)
  assert spec.fixed == {
      'DATA_DIR': '"other"',  # The command line wins.
      'OPTIMIZER': '@optimizers.AdamW()',
      'TARGETS': 'None',
  }
  assert spec.grid == {
      'LEARNING_RATE': ('0.001', '1'),
      'MODALITIES': ('["item"]', '["item", "genre"]'),
  }
  assert spec.zips == [{'LAYERS': ('1', '2'), 'WIDTH': ('8', '16')}]
  assert (spec.draws, spec.draw_seed) == (4, 7)
  assert spec.spaces == {
      'DECAY': spaces.Log(1e-3, 1e-1), 'KIND': spaces.Choice(('a', 'b'))
  }
  assert spec.whens[0].conditions == {'KIND': ('"b"',), 'LAYERS': ('1', '2')}
  assert spec.whens[0].values == ('1', '4')


@pytest.mark.parametrize(
    ['text', 'message'],
    [
        ('[gird]\nA = [1]', "unknown section 'gird'; .*Did you mean grid"),
        ('sed = [1]', r"\[sweep\] unknown key 'sed'; .*Did you mean seeds"),
        ('[grid]\nA = 1 1', 'line 7'),  # tomllib's own words.
        ('[grid]\nA = 1', r'\[grid\] A = 1: must be a list'),
        ('[grid]\nA = []', 'must be a list'),
        ('[grid]\nA = [nan]', 'A: nan must be a text, a finite number'),
        ('[grid]\nA = [{b = 1}]', 'must be a text'),
        ('[grid]\nA = [2026-01-01]', 'must be a text'),
        ('[grid]\na_b = [1]', "'a_b' is no UPPER_CASE macro. Did you mean A_B"),
        ('[grid]\n"x.y" = [1]', 'no UPPER_CASE macro'),
        ('[grid]\nA = [1]\n[set]\nA = 2', 'A is set in two places'),
        ('[grid]\nSEED = [1]', 'seeds belong to .sweep. seeds'),
        ('[zip]\nA = [1]', r'zip must be a section: \[\[zip\]\]'),
        ('grid = 1', "unknown key 'grid'"),
        ('[[zip]]\nA = [1]\nB = [1, 2]', 'give each as many'),
        ('[random]\nA = {log = [1, 2]}', 'n is missing'),
        ('[random]\nn = 3', 'no macro to draw'),
        ('[random]\nn = 0\nA = {log = [1, 2]}', 'n must be a whole number'),
        ('[random]\nn = 1\nA = {log = [0, 2]}', 'A = .*positive numbers'),
        ('[random]\nn = 1\nA = {log = [2, 1]}', 'LOW below HIGH'),
        ('[random]\nn = 1\nA = {unifrom = [1, 2]}', 'must be .log ='),
        ('[random]\nn = 1\nA = {choice = []}', 'must be .log ='),
        ('[random]\nn = 1\nA = [1]', 'must be .log ='),
        ('[when]\nA = 3', 'must be .if ='),
        ('[grid]\nBOTH = [1]\n[when]\nA = {if = {BOHT = 1}, values = [2]}',
         'sets BOHT. Did you mean BOTH'),
        ('[when]\nA = {if = {A = 1}, values = [2]}', 'nothing before it'),
        ('[when]\nA = {if = 3, values = [2]}', 'if must be'),
        ('seeds = 3', r'seeds = 3 must be a list .*: seeds = \[0, 1\]'),
        ('seeds = []', 'seeds = .* must be'),
        ('seeds = [-1]', 'seeds = .* must be'),
        ('seeds = [true]', 'seeds = .* must be'),
        ('seeds = [1, 1]', 'one of them twice'),
        ('retries = 0.5', 'retries must be'),
    ],
)
def test_what_is_wrong(load, text, message):
  with pytest.raises(ValueError, match=message) as error:
    load(text)
  assert 'sweep.toml: ' in str(error.value)


@pytest.mark.parametrize(
    ['head', 'message'],
    [
        ('', 'name is missing'),
        (_HEAD.replace("'rates'", '3'), 'name must be a text'),
        (_HEAD.replace("['a.gin']", "'a.gin'"), 'base must be a list'),
        (_HEAD.replace('max', 'mix'), "must be 'max NAME' or 'min NAME'"),
        (_HEAD.replace('max', ''), "must be 'max NAME' or 'min NAME'"),
    ],
)
def test_what_is_wrong_in_the_head(load, head, message):
  with pytest.raises(ValueError, match=message):
    load('', head=head)


def test_nan_is_the_worst():
  for is_max, best in ((True, 3.0), (False, 1.0)):
    objective = spec_lib.Objective(metric='x', is_max=is_max)
    values = [float('nan'), 2.0, 3.0, 1.0, float('-inf'), float('inf')]
    finite = [v for v in values if abs(v) < 9]
    assert min(finite, key=objective.cost) == best
    assert objective.cost(values[0]) == max(map(objective.cost, values))
