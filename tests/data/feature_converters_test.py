import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from user_llm.data import feature_converters
from user_llm.data import questions


def _dataset(example: dict) -> tf.data.Dataset:
  """One example; arrays of unknown length, as the tasks yield them."""
  example = {k: np.array(v, np.int32) for k, v in example.items()}
  return tf.data.Dataset.from_generator(
      lambda: iter([example]),
      output_signature={
          k: tf.TensorSpec([None] * v.ndim, tf.int32)
          for k, v in example.items()
      },
  )


def _convert(converter, example, lengths):
  (out,) = converter(_dataset(example), lengths).as_numpy_iterator()
  return out


def _check(out, want):
  assert out.keys() == want.keys()
  for key, value in want.items():
    assert out[key].tolist() == value, key


def test_events_training_worked_example():
  converter = feature_converters.EventsConverter(('item',), train=True)
  out = _convert(
      converter,
      {
          'item': [7, 8, 9, 4, 5],
          'target_item': [8, 9, 3, 5, 6],
          'segment_ids': [1, 1, 1, 2, 2],
          'positions': [0, 1, 2, 0, 1],
      },
      {k: 6 for k in converter.TASK_FEATURES},
  )
  _check(out, {
      'user_item': [7, 8, 9, 4, 5, 0],
      'target_item': [8, 9, 3, 5, 6, 0],
      'segment_ids': [1, 1, 1, 2, 2, 0],
      'positions': [0, 1, 2, 0, 1, 0],
      'user_mask': [True, True, True, True, True, False],
  })
  assert out['user_mask'].dtype == bool
  assert out['user_item'].dtype == np.int32


def test_events_evaluation_worked_example():
  converter = feature_converters.EventsConverter(('item',), train=False)
  lengths = {k: 4 for k in converter.TASK_FEATURES} | {'seen_item': 3}
  out = _convert(
      converter,
      {
          'item': [7, 8, 7],
          'segment_ids': [1, 1, 1],
          'positions': [0, 1, 2],
          'label_item': [9],
          'seen_item': [7, 8],
          'example_id': 5,
      },
      lengths,
  )
  _check(out, {
      'user_item': [7, 8, 7, 0],
      'segment_ids': [1, 1, 1, 0],
      'positions': [0, 1, 2, 0],
      'user_mask': [True, True, True, False],
      'label_item': 9,
      'seen_item': [7, 8, 0],
      'example_id': 5,
  })


QUESTION = {
    'prompts': [[20, 21], [22, 0]], 'answers': [[30, 1, 0], [31, 32, 1]]
}
HISTORY = {
    'item': [7, 8, 9],
    'segment_ids': [1, 1, 1],
    'positions': [0, 1, 2],
    'history_end': [2, 3],
}
TOKENS = {
    'target_tokens': [
        [20, 21, 30, 1, 0, 0], [22, 31, 32, 1, 0, 0], [0, 0, 0, 0, 0, 0]
    ],
    'input_tokens': [
        [3, 20, 21, 30, 0, 0], [3, 22, 31, 32, 0, 0], [0, 0, 0, 0, 0, 0]
    ],
    'loss_weights': [
        [0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]
    ],
}
ROW = {
    'user_item': [7, 8, 9, 0],
    'segment_ids': [1, 1, 1, 0],
    'positions': [0, 1, 2, 0],
    'user_mask': [True, True, True, False],
    'history_end': [2, 3, 0],
}
LENGTHS = {
    'item': 4, 'segment_ids': 4, 'positions': 4, 'history_end': 3,
    'prompts': (3, 2), 'answers': (3, 6),
}


def test_conditioned_lm_worked_example():
  converter = feature_converters.ConditionedLMConverter(('item',), bos_id=3)
  out = _convert(converter, HISTORY | QUESTION, LENGTHS)
  _check(out, ROW | TOKENS)
  assert out['loss_weights'].dtype == np.float32


def test_conditioned_lm_evaluation_adds_label_and_seen_items():
  converter = feature_converters.ConditionedLMConverter(
      ('item',), label='label', bos_id=3
  )
  more = {'label': [4, 6], 'seen_item': [8], 'example_id': 2}
  out = _convert(
      converter, HISTORY | QUESTION | more, LENGTHS | {
          'label': 3, 'seen_item': 2, 'example_id': 1
      }
  )
  _check(out, ROW | TOKENS | {
      'label': 4,
      'seen_item': [8, 0],
      'example_id': 2,
      'prompt_tokens': [[3, 20, 21], [0, 3, 22], [0, 0, 0]],
  })


def test_text_alone_has_only_tokens():
  converter = feature_converters.ConditionedLMConverter((), bos_id=3)
  out = _convert(
      converter,
      {'prompts': np.zeros((1, 0)), 'answers': [[20, 21, 30, 1]]},
      {'prompts': (1, 0), 'answers': (1, 5)},
  )
  _check(out, {
      'target_tokens': [[20, 21, 30, 1, 0]],
      'input_tokens': [[3, 20, 21, 30, 0]],
      'loss_weights': [[1, 1, 1, 1, 0]],
  })


def test_rows_of_tokens_are_joined_without_padding_between():
  rng = np.random.default_rng(0)
  lengths = rng.integers(0, 5, (2, 3, 4))
  column = np.arange(4)
  left, right = (
      np.where(column < n[..., None], rng.integers(1, 9, (3, 4, 4)), 0)
      for n in lengths
  )
  as_tokens = lambda x: tf.constant(x, tf.int32)
  joined = feature_converters.join(as_tokens(left), as_tokens(right), 6)
  moved = feature_converters.prompt_tokens(as_tokens(left), bos_id=3)
  for i in np.ndindex(3, 4):
    row = [*left[i][left[i] > 0], *right[i][right[i] > 0], *[0] * 6][:6]
    assert joined[i].numpy().tolist() == row
    bos = [3] if left[i].any() else [0]
    row = [*left[i][left[i] == 0], *bos, *left[i][left[i] > 0]]
    assert moved[i].numpy().tolist() == row


def test_a_long_answer_loses_its_end():
  converter = feature_converters.ConditionedLMConverter((), bos_id=3)
  out = _convert(
      converter,
      {'prompts': [[20]], 'answers': [[30, 31, 32, 1]]},
      {'prompts': (1, 1), 'answers': (1, 3)},
  )
  _check(out, {
      'target_tokens': [[20, 30, 31]],
      'input_tokens': [[3, 20, 30]],
      'loss_weights': [[0, 1, 1]],
  })


def test_a_missing_feature_is_named():
  converter = feature_converters.EventsConverter(('item', 'genre'), train=True)
  with pytest.raises(ValueError, match='genre'):
    _convert(
        converter,
        {'item': [1], 'segment_ids': [1], 'positions': [0]},
        {k: 2 for k in converter.TASK_FEATURES},
    )


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('task', ['events', 'next_item', 'favourite_genre'])
def test_no_feature_is_called_as_another_key(make, task, split):
  config = questions.TextPromptConfig(max_tokens=20)
  dataset = make(task, history_as_text=config)
  schema = dataset.schema
  feature_converters.check_names(schema)
  examples = dataset.splits[split].batches(lambda: [np.arange(2)], seed=0)
  features = (
      key.removeprefix('user_')
      for key in dataset.batch_spec(split, 2) if key.startswith('user_')
  )
  others = {*examples.element_spec, *features}.difference(schema.names)
  assert {'positions', 'segment_ids', 'mask'} <= others
  for key in others:
    other = dataclasses.replace(schema['rating'], name=key)
    for changes in (
        {'modalities': (*schema.modalities, other)},
        {'texts': (*schema.texts, key)},
    ):
      with pytest.raises(ValueError, match=f"has a feature '{key}'"):
        feature_converters.check_names(dataclasses.replace(schema, **changes))
