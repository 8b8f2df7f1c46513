"""Windows of a text: every token is scored once, behind what it may see."""

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from user_llm.data import held_out_text
from user_llm.data import vocabulary

_TEXT = 'works: café 日本 🎬 well\na second line\nand a third\n'


@pytest.fixture(name='bytes_vocabulary', scope='module')
def _bytes_vocabulary(tmp_path_factory):
  """Spells what is rare in bytes, a token each."""
  path = tmp_path_factory.mktemp('bytes') / 'bytes.model'
  lines = ['works well', 'a well known work'] * 20
  path.write_bytes(vocabulary.train(lines, size=400, texts=lines))
  return str(path)


def _text(tmp_path, bytes_vocabulary, content=_TEXT, **fields):
  path = tmp_path / 'some.txt'
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return held_out_text.HeldOutText(
      path=str(path), vocabulary=bytes_vocabulary, **fields
  )


def _of_tokens(vocabulary_path, size, width, stride):
  """Windows of the tokens 10, 11, ..."""
  text = held_out_text.HeldOutText(
      path='none', vocabulary=vocabulary_path, window_tokens=width,
      stride_tokens=stride,
  )
  text.__dict__['tokens'] = np.arange(10, 10 + size)
  return {key: value[:, 0] for key, value in text.windows.items()}


def test_documented_windows(bytes_vocabulary):
  found = _of_tokens(bytes_vocabulary, 7, 4, 2)
  bos = vocabulary.BOS_ID
  assert found['target_tokens'].tolist() == [
      [10, 11, 12, 13], [12, 13, 14, 15], [14, 15, 16, 0]
  ]
  assert found['input_tokens'].tolist() == [
      [bos, 10, 11, 12], [bos, 12, 13, 14], [bos, 14, 15, 16]
  ]
  assert found['loss_weights'].tolist() == [
      [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 0]
  ]


@hypothesis.given(st.integers(1, 60), st.integers(1, 12), st.data())
@hypothesis.settings(
    deadline=None, max_examples=200,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_every_token_is_scored_once(bytes_vocabulary, size, width, data):
  stride = data.draw(st.integers(1, width))
  found = _of_tokens(bytes_vocabulary, size, width, stride)
  scored = []
  for row, targets, weights in zip(*(
      found[k] for k in ('input_tokens', 'target_tokens', 'loss_weights')
  )):
    assert weights.any()
    for i in np.flatnonzero(weights):
      scored.append(targets[i])
      # The i tokens before it, and at least what the stride leaves.
      context = list(range(targets[i] - i, targets[i]))
      assert row[: i + 1].tolist() == [vocabulary.BOS_ID, *context]
      assert i >= min(targets[i] - 10, width - stride)
  assert scored == list(range(10, 10 + size))


def test_batches_have_every_window_once_on_any_number_of_hosts(
    tmp_path, bytes_vocabulary
):
  text = _text(tmp_path, bytes_vocabulary, window_tokens=5, stride_tokens=3)
  want = text.windows['target_tokens']
  for batch_size, num_hosts in ((1, 1), (4, 1), (4, 2), (100, 2)):
    hosts = [
        list(text.eval_batches(
            split='test', batch_size=batch_size, host=i, num_hosts=num_hosts
        ))
        for i in range(num_hosts)
    ]
    assert len(set(map(len, hosts))) == 1
    rows = [batch for batches in zip(*hosts) for batch in batches]
    ids = np.concatenate([batch['example_id'] for batch in rows])
    assert ids[ids >= 0].tolist() == list(range(len(want)))
    got = np.concatenate([batch['target_tokens'] for batch in rows])
    np.testing.assert_array_equal(got[ids >= 0], want)


def test_whole_lines_are_read_and_bytes_counted(tmp_path, bytes_vocabulary):
  lines = [line.encode() + b'\n' for line in _TEXT.splitlines()]
  for fits in (1, 2, 3):
    want = b''.join(lines[:fits])
    for spare in (0, 5):
      text = _text(
          tmp_path, bytes_vocabulary, max_bytes=len(want) + spare
      )
      assert text.content == want
      decoded = vocabulary.load(bytes_vocabulary).decode(text.tokens.tolist())
      assert decoded == want.decode()
  whole = _text(tmp_path, bytes_vocabulary)
  assert whole.content == _TEXT.encode()
  assert len(whole.content) > len(_TEXT)
  assert whole.name == 'some'
  other = _text(tmp_path, bytes_vocabulary, max_bytes=50)
  assert other.fingerprint != whole.fingerprint


def test_what_cannot_be_measured_is_named(
    tmp_path, bytes_vocabulary, tiny_vocabulary
):
  absent = held_out_text.HeldOutText(
      path=str(tmp_path / 'absent.txt'), vocabulary=bytes_vocabulary
  )
  with pytest.raises(ValueError, match='TEXT_FILE=.*absent.txt: .*No such'):
    _ = absent.content
  for content, message in (
      (b'caf\xe9\n', "TEXT_FILE=.*some.txt: 'utf-8'"),
      (b'', 'some.txt is empty, or its first line'),
      (b'a' * 99, 'more than TEXT_MAX_BYTES=64'),
  ):
    with pytest.raises(ValueError, match=message):
      _ = _text(tmp_path, bytes_vocabulary, content, max_bytes=64).content
  with pytest.raises(ValueError, match='cannot spell 1 pieces of TEXT_FILE'):
    _ = _text(tmp_path, tiny_vocabulary, 'a film 日').tokens
  for fields in (
      dict(stride_tokens=600), dict(stride_tokens=0), dict(max_bytes=1.5),
      dict(window_tokens=True),
  ):
    (name,) = fields
    with pytest.raises(ValueError, match=f'HeldOutText.{name} must be an'):
      _text(tmp_path, bytes_vocabulary, **fields)
