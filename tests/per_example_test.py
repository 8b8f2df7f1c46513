"""Per-example files: what is written is read, and nothing else is."""

import numpy as np
import pytest

from user_llm import per_example


def _make(**facts):
  return per_example.PerExample(
      facts={
          'user': np.array([4, 7]),
          'label_position': np.array([3, 9]),
          'label_item': np.array([1, 2]),
          'labels/genre': np.array(['Comedy\nDrama', '']),
          **facts,
      },
      values={
          'user_llm': {
              'rank/all': np.array([1, 30], np.int32),
              'accuracy': np.array([True, False]),
          },
          'markov': {'rank/all': np.array([2, 2], np.int32)},
      },
  )


def test_what_is_written_is_read(tmp_path):
  path = tmp_path / '8-validation.npz'
  _make().write(path)
  assert [p.name for p in tmp_path.iterdir()] == [path.name]
  found = per_example.read(path)
  assert len(found) == 2
  assert found.identity == _make().identity
  assert found.facts['labels/genre'].tolist() == ['Comedy\nDrama', '']
  assert set(found.values) == {'user_llm', 'markov'}
  metrics = found.metrics('user_llm')
  assert metrics['recall@5/all'].tolist() == [1, 0]
  assert metrics['mrr@10/all'].tolist() == [1, 0]
  assert metrics['accuracy'].tolist() == [1, 0]
  assert not found.metrics('another')


@pytest.mark.parametrize('name', ['user', 'label_position', 'label_item'])
def test_identity_is_of_the_examples_and_their_order(name):
  changed = _make(**{name: np.array([4, 8])})
  assert changed.identity != _make().identity
  turned = _make(**{name: _make().facts[name][::-1]})
  assert turned.identity != _make().identity
  other = _make(label_count=np.array([5, 5]))
  assert other.identity == _make().identity


def test_values_of_other_examples():
  with pytest.raises(ValueError, match='Not of as many examples each'):
    _make(user=np.array([1, 2, 3]))


def _pickled(path):
  with path.open('wb') as file:
    np.savez(file, **{'facts/user': np.array([{}, []], object)})


def _cut(path):
  _make().write(path)
  path.write_bytes(path.read_bytes()[:-40])


def _flipped(path):
  _make().write(path)
  data = bytearray(path.read_bytes())
  # Behind a member's header, name and extra field: no such kind of block.
  sizes = (int.from_bytes(data[i : i + 2], 'little') for i in (26, 28))
  data[30 + sum(sizes)] = 0xFF
  path.write_bytes(data)


def _encrypted(path):
  _make().write(path)
  data = bytearray(path.read_bytes())
  data[data.index(b'PK\x01\x02') + 8] |= 1  # As a flag of the first says.
  path.write_bytes(data)


def _foreign(path):
  with path.open('wb') as file:
    np.savez(file, weights=np.zeros(2))


@pytest.mark.parametrize(
    ['write', 'message'],
    [
        (_pickled, 'allow_pickle'),
        (_cut, 'zip'),
        (_flipped, 'invalid block type'),
        (_encrypted, 'is encrypted'),
        (_foreign, "unknown array 'weights'"),
        (lambda path: path.write_bytes(b''), 'broken'),
        (lambda path: path.write_text('{}'), 'broken'),
        (lambda path: np.save(path.open('wb'), np.zeros(2)), 'broken'),
    ],
)
def test_broken_files(tmp_path, write, message):
  path = tmp_path / '8.npz'
  write(path)
  with pytest.raises(ValueError, match=message) as caught:
    per_example.read(path)
  assert '8.npz is broken' in str(caught.value)
  assert 'evaluate again, or delete it' in str(caught.value)
