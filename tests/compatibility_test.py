"""Tests of what a checkpoint must share with a run, and how that is told."""

import numpy as np
import pytest

from user_llm import compatibility


def test_identities():
  compatibility.check_identity({'catalogue': 'c'}, {'vocabulary': 'v'}, 'x')
  for key, mend in {
      'catalogue': 'DATA_DIR',
      'events': 'ALLOW_DATA_CHANGE',
      'split_rule': 'SPLIT_RULE',
      'vocabulary': 'VOCABULARY.*python -m user_llm.data.vocabulary',
      'frozen': 'INIT_FROM',
  }.items():
    with pytest.raises(ValueError, match=f'x was made with {key} aa.*bb.*{mend}'):
      compatibility.check_identity({key: 'aa'}, {key: 'bb'}, 'x')


def test_the_table_of_differences():
  found = {
      'encoder/blocks_0/mlp/kernel': np.zeros((4, 16)),
      'encoder/head/kernel': np.zeros((4, 41)),
      'encoder/norm/scale': np.zeros(4),
      'other/bias': np.zeros(3),
  }
  wanted = {
      'encoder/block_0/mlp/kernel': np.zeros((4, 16)),
      'encoder/head/kernel': np.zeros((4, 40)),
      'encoder/norm/scale': np.zeros(4),
      'gate': np.zeros(()),
  }
  with pytest.raises(ValueError) as error:
    compatibility.check_same_keys(found, wanted, 'runs/a/3')
  head, *table = str(error.value).splitlines()
  assert 'runs/a/3 does not fit MODEL (5 differences)' in head
  assert [line.split() for line in table] == [
      ['parameter', 'checkpoint', 'MODEL'],
      ['encoder/block_0/mlp/kernel', 'missing', '(4,', '16)',
       'encoder/blocks_0/mlp/kernel', 'renamed?'],
      ['encoder/blocks_0/mlp/kernel', '(4,', '16)', 'unexpected'],
      ['encoder/head/kernel', '(4,', '41)', '(4,', '40)'],
      ['gate', 'missing', '()'],
      ['other/bias', '(3,)', 'unexpected'],
  ]
  columns = {line.index(word) for line, word in zip(
      table, ['checkpoint', 'missing', '(4, 16)', '(4, 41)', 'missing', '(3,)']
  )}
  assert len(columns) == 1


def test_what_fits_and_what_is_long():
  compatibility.check_same_keys({'a': np.zeros(2)}, {'a': np.ones(2)}, 'x')
  many = {f'p{i:02d}': np.zeros(1) for i in range(50)}
  with pytest.raises(ValueError, match='50 differences') as error:
    compatibility.check_same_keys({}, many, 'x')
  lines = str(error.value).splitlines()
  assert len(lines) == 23 and lines[-1].strip() == 'and 30 more'
