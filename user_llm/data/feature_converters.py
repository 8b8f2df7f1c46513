"""From unpadded task features to the fixed shapes that the models read."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

Example = dict[str, tf.Tensor]
_Spec = seqio.FeatureConverter.FeatureSpec


def _pad(x: tf.Tensor, lengths: tuple[int, ...]) -> tf.Tensor:
  """Pads with zeros at the end of each axis, to a static shape."""
  pads = [(0, n - tf.shape(x)[axis]) for axis, n in enumerate(lengths)]
  x = tf.pad(x, pads)
  x.set_shape(lengths)
  return x


def _ranks(ranks: Mapping[str, int]) -> dict[str, _Spec]:
  return {k: _Spec(dtype=tf.int32, rank=rank) for k, rank in ranks.items()}


class _RowConverter(seqio.FeatureConverter):
  """A converter whose features depend on the dataset's modalities.

  So seqio's class constants are set on the instance.
  """

  TASK_FEATURES = {}
  MODEL_FEATURES = {}
  PACKING_FEATURE_DTYPES = {}

  def __init__(
      self,
      task_features: Mapping[str, int],
      model_features: Mapping[str, _Spec],
  ):
    self.TASK_FEATURES = _ranks(task_features)
    self.MODEL_FEATURES = dict(model_features)
    # The lengths hold by construction, and asserting each is slow.
    super().__init__(pack=False, apply_length_check=False)

  def _convert_example(
      self, example: Example, lengths: Mapping[str, int]
  ) -> Example:
    raise NotImplementedError

  def _convert_features(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    return ds.map(
        lambda x: self._convert_example(x, task_feature_lengths),
        num_parallel_calls=tf.data.AUTOTUNE,
    )

  def get_model_feature_lengths(
      self, task_feature_lengths: Mapping[str, int]
  ) -> Mapping[str, int]:
    # Their values only matter to the length check, which is off.
    del task_feature_lengths
    return {k: 0 for k in self.MODEL_FEATURES}


class EventsConverter(_RowConverter):
  """Rows of the user encoder.

  Worked example, training, two segments of the modality `item` in a row of 6:

    item          [7, 8, 9, 4, 5]        user_item     [7, 8, 9, 4, 5, 0]
    target_item   [8, 9, 3, 5, 6]   ->   target_item   [8, 9, 3, 5, 6, 0]
    segment_ids   [1, 1, 1, 2, 2]        segment_ids   [1, 1, 1, 2, 2, 0]
    positions     [0, 1, 2, 0, 1]        positions     [0, 1, 2, 0, 1, 0]
                                         user_mask     [1, 1, 1, 1, 1, 0]

  Evaluation, history of 3 in a row of 4, 2 of 3 places for seen items used:

    item          [7, 8, 7]              user_item     [7, 8, 7, 0]
    segment_ids   [1, 1, 1]              segment_ids   [1, 1, 1, 0]
    positions     [0, 1, 2]         ->   positions     [0, 1, 2, 0]
    label_item    [9]                    user_mask     [1, 1, 1, 0]
    seen_item     [7, 8]                 label_item    9
                                         seen_item     [7, 8, 0]
  """

  def __init__(self, modalities: tuple[str, ...], *, train: bool):
    """Initialises it.

    Args:
      modalities: Names of the modalities to convert.
      train: Whether rows carry targets (or else one label each).
    """
    self._modalities = modalities
    self._train = train
    row = ('positions', 'segment_ids')
    if train:
      targets = tuple(f'target_{m}' for m in modalities)
      task = {k: 1 for k in modalities + targets + row}
      model = _ranks({k: 1 for k in targets + row})
    else:
      task = {k: 1 for k in modalities + row + ('label_item', 'seen_item')}
      task['example_id'] = 0
      model = _ranks({k: 1 for k in row + ('seen_item',)})
      model |= _ranks({'label_item': 0, 'example_id': 0})
    model |= _ranks({f'user_{m}': 1 for m in modalities})
    model['user_mask'] = _Spec(dtype=tf.bool, rank=1)
    super().__init__(task, model)

  def _convert_example(
      self, example: Example, lengths: Mapping[str, int]
  ) -> Example:
    out = {}
    for name in self.TASK_FEATURES:
      if name == 'example_id':
        out[name] = example[name]
      elif name == 'label_item':
        out[name] = example[name][0]
      else:
        key = f'user_{name}' if name in self._modalities else name
        out[key] = _pad(example[name], (lengths[name],))
    out['user_mask'] = out['segment_ids'] > 0
    return out


def join(left: tf.Tensor, right: tf.Tensor, width: int) -> tf.Tensor:
  """Puts token rows behind one another; 0 is padding, at the end of each.

  Example, width 4: [[20, 21], [22, 0]] and [[30, 1], [31, 0]] give
  [[20, 21, 30, 1], [22, 31, 0, 0]].

  Args:
    left: int32[..., n].
    right: int32[..., m].
    width: Of the result; what is longer loses its end.

  Returns:
    int32[..., width].
  """
  length = tf.math.count_nonzero(left, -1, keepdims=True, dtype=tf.int32)
  column = tf.range(width)
  num_left, num_right = tf.shape(left)[-1], tf.shape(right)[-1]
  beyond = tf.minimum(column - length, num_right) + num_left
  both = tf.concat([left, right, tf.zeros_like(length)], axis=-1)
  return tf.gather(
      both,
      tf.where(column < length, column, beyond),
      batch_dims=left.shape.rank - 1,
  )


def to_the_right(rows: tf.Tensor) -> tf.Tensor:
  """Moves the padding of token rows, int32[..., n], to their start."""
  width = tf.shape(rows)[-1]
  length = tf.math.count_nonzero(rows, -1, keepdims=True, dtype=tf.int32)
  column = tf.range(width) - (width - length)
  moved = tf.gather(
      rows, tf.maximum(column, 0), batch_dims=rows.shape.rank - 1
  )
  return tf.where(column >= 0, moved, 0)


class ConditionedLMConverter(_RowConverter):
  """Questions and answers about a history: P targets a row, T tokens a target.

  Worked example: a history of 3 events in a row of 4; 2 of P = 3 targets; the
  questions are the tokens [20, 21] and [22], the answers [30, 1] and
  [31, 32, 1] (1 is eos, bos is 3) and T = 6.

    item         [7, 8, 9]            user_item      [7, 8, 9, 0]
    segment_ids  [1, 1, 1]            segment_ids    [1, 1, 1, 0]
    positions    [0, 1, 2]       ->   positions      [0, 1, 2, 0]
    history_end  [2, 3]               history_end    [2, 3, 0]
    prompts      [[20, 21],           user_mask      [1, 1, 1, 0]
                  [22,  0]]
    answers      [[30,  1, 0],
                  [31, 32, 1]]

    target_tokens             input_tokens              loss_weights
    [[20, 21, 30,  1, 0, 0],  [[ 3, 20, 21, 30,  0, 0], [[0, 0, 1, 1, 0, 0],
     [22, 31, 32,  1, 0, 0],   [ 3, 22, 31, 32,  0, 0],  [0, 1, 1, 1, 0, 0],
     [ 0,  0,  0,  0, 0, 0]]   [ 0,  0,  0,  0,  0, 0]]  [0, 0, 0, 0, 0, 0]]

  An input token whose target is padding is padding too. Without modalities
  (text alone) only these three are made. For evaluation there is also what
  generation starts from, the questions with their padding in front, as wide in
  every batch of a task (1 + the longest question):

    prompt_tokens  [[3, 20, 21], [0, 3, 22], [0, 0, 0]]
  """

  def __init__(
      self,
      modalities: tuple[str, ...],
      *,
      label: str | None = None,
      bos_id: int,
  ):
    """Initialises it.

    Args:
      modalities: Names of the modalities to convert; none for text alone.
      label: For evaluation, the feature that holds the label; the batch then
        has it, `prompt_tokens`, `seen_item` and `example_id` too.
      bos_id: Starts every input.
    """
    self._modalities = modalities
    self._label = label
    self._bos = bos_id
    task = {'prompts': 2, 'answers': 2}
    tokens = ('input_tokens', 'target_tokens')
    model = _ranks({k: 2 for k in tokens})
    model['loss_weights'] = _Spec(dtype=tf.float32, rank=2)
    if modalities:
      row = ('positions', 'segment_ids', 'history_end')
      task |= {k: 1 for k in modalities + row}
      model |= _ranks({f'user_{m}': 1 for m in modalities})
      model |= _ranks({k: 1 for k in row})
      model['user_mask'] = _Spec(dtype=tf.bool, rank=1)
    if label is not None:
      task |= {label: 1, 'seen_item': 1, 'example_id': 0}
      model |= _ranks({label: 0, 'seen_item': 1, 'example_id': 0})
      model |= _ranks({'prompt_tokens': 2})
    super().__init__(task, model)

  def _tokens(
      self, prompts: tf.Tensor, answers: tf.Tensor, num_tokens: int
  ) -> Example:
    target = join(prompts, answers, num_tokens)
    target.set_shape([prompts.shape[0], num_tokens])
    shifted = tf.pad(
        target[:, :-1], [(0, 0), (1, 0)], constant_values=self._bos
    )
    length = tf.math.count_nonzero(prompts, -1, keepdims=True, dtype=tf.int32)
    is_answer = tf.range(num_tokens) >= length
    return {
        'target_tokens': target,
        'input_tokens': tf.where(target > 0, shifted, 0),
        'loss_weights': tf.cast(is_answer & (target > 0), tf.float32),
    }

  def _convert_example(
      self, example: Example, lengths: Mapping[str, int]
  ) -> Example:
    num_targets, num_tokens = lengths['answers']
    prompts = _pad(example['prompts'], lengths['prompts'])
    answers = example['answers']
    answers = tf.pad(
        answers, [(0, num_targets - tf.shape(answers)[0]), (0, 0)]
    )
    out = self._tokens(prompts, answers, num_tokens)
    for name in self.TASK_FEATURES:
      if name in ('prompts', 'answers'):
        continue
      elif name == 'example_id':
        out[name] = example[name]
      elif name == self._label:
        out[name] = example[name][0]
      else:
        key = f'user_{name}' if name in self._modalities else name
        out[key] = _pad(example[name], (lengths[name],))
    if self._modalities:
      out['user_mask'] = out['segment_ids'] > 0
    if self._label is not None:
      bos = tf.where(prompts[:, :1] > 0, self._bos, 0)
      out['prompt_tokens'] = to_the_right(tf.concat([bos, prompts], axis=1))
    return out
