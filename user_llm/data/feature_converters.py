"""From unpadded task features to the fixed shapes that the models read."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from user_llm.data import schema as schema_lib

Example = dict[str, tf.Tensor | tf.RaggedTensor]
_Spec = seqio.FeatureConverter.FeatureSpec


def _pad(x: tf.RaggedTensor, lengths: tuple[int | None, ...]) -> tf.Tensor:
  """[B, *lengths], dense: zeros at the end; what is too long loses its end."""
  return x.to_tensor(shape=(None, *lengths))


def _ranks(ranks: Mapping[str, int]) -> dict[str, _Spec]:
  return {k: _Spec(dtype=tf.int32, rank=rank) for k, rank in ranks.items()}


class _RowConverter(seqio.FeatureConverter):
  """A converter whose features depend on the dataset's modalities.

  So seqio's class constants are set on the instance. seqio converts example by
  example, `convert` a batch at once.
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

  def convert(
      self, batch: Example, lengths: Mapping[str, int | tuple[int, ...]]
  ) -> Example:
    """Converts B examples at once.

    Args:
      batch: The task's features, int32[B] or ragged int32[B, (n), ...].
      lengths: What to pad each to.

    Returns:
      The model's features, dense.
    """
    raise NotImplementedError

  def _convert_features(
      self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    def convert(example: Example) -> Example:
      batch = {
          k: tf.RaggedTensor.from_tensor(x[None]) if x.shape.rank else x[None]
          for k, x in example.items()
      }
      out = self.convert(batch, task_feature_lengths)
      return {k: x[0] for k, x in out.items()}

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

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

  def convert(
      self, batch: Example, lengths: Mapping[str, int | tuple[int, ...]]
  ) -> Example:
    """See the class's examples."""
    out = {}
    for name in self.TASK_FEATURES:
      if name == 'example_id':
        out[name] = batch[name]
      elif name == 'label_item':
        out[name] = _pad(batch[name], (1,))[:, 0]
      else:
        key = f'user_{name}' if name in self._modalities else name
        out[key] = _pad(batch[name], (lengths[name],))
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


def prompt_tokens(prompts: tf.Tensor, bos_id: int) -> tf.Tensor:
  """What generation starts from: bos and a question, padded in front.

  Example, bos is 3: [[20, 21], [22, 0], [0, 0]] gives
  [[3, 20, 21], [0, 3, 22], [0, 0, 0]].

  Args:
    prompts: int32[..., n], padded at the end with 0.
    bos_id: The token.

  Returns:
    int32[..., 1 + n].
  """
  bos = tf.where(prompts[..., :1] > 0, bos_id, 0)
  rows = tf.concat([bos, prompts], axis=-1)
  width = rows.shape[-1]
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
      history_as_text: bool = False,
      bos_id: int,
  ):
    """Initialises it.

    Args:
      modalities: Names of the modalities to convert; none for text alone.
      label: For evaluation, the feature that holds the label; the batch then
        has it, `prompt_tokens`, `seen_item` and `example_id` too.
      history_as_text: Whether an evaluation has `num_prompt_events`.
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
      if history_as_text:
        task['num_prompt_events'] = 1
        model |= _ranks({'num_prompt_events': 1})
    super().__init__(task, model)

  def _tokens(
      self, prompts: tf.Tensor, answers: tf.Tensor, num_tokens: int
  ) -> Example:
    target = join(prompts, answers, num_tokens)
    shifted = tf.pad(
        target[..., :-1], [(0, 0), (0, 0), (1, 0)], constant_values=self._bos
    )
    length = tf.math.count_nonzero(prompts, -1, keepdims=True, dtype=tf.int32)
    is_answer = tf.range(num_tokens) >= length
    return {
        'target_tokens': target,
        'input_tokens': tf.where(target > 0, shifted, 0),
        'loss_weights': tf.cast(is_answer & (target > 0), tf.float32),
    }

  def convert(
      self, batch: Example, lengths: Mapping[str, int | tuple[int, ...]]
  ) -> Example:
    """See the class's examples."""
    num_targets, num_tokens = lengths['answers']
    prompts = _pad(batch['prompts'], (num_targets, None))
    prompts = tf.ensure_shape(prompts, (None, *lengths['prompts']))
    answers = _pad(batch['answers'], (num_targets, None))
    out = self._tokens(prompts, answers, num_tokens)
    for name in self.TASK_FEATURES:
      if name in ('prompts', 'answers'):
        continue
      elif name == 'example_id':
        out[name] = batch[name]
      elif name == self._label:
        out[name] = _pad(batch[name], (1,))[:, 0]
      else:
        key = f'user_{name}' if name in self._modalities else name
        out[key] = _pad(batch[name], (lengths[name],))
    if self._modalities:
      out['user_mask'] = out['segment_ids'] > 0
    if self._label is not None:
      out['prompt_tokens'] = prompt_tokens(prompts, self._bos)
    return out


def check_names(schema: schema_lib.EventSchema) -> None:
  """Checks that no feature is called as another key of examples or batches.

  Args:
    schema: Of the whole dataset.

  Raises:
    ValueError: A modality or a text is; one would be read for the other.
  """
  item = schema.names[:1]
  of_items = (
      EventsConverter(item, train=True),
      EventsConverter(item, train=False),
      ConditionedLMConverter(
          item, label='label', history_as_text=True, bos_id=0
      ),
  )
  taken = {key for c in of_items for key in c.TASK_FEATURES}
  taken.update(f'target_{name}' for name in schema.names)
  taken_of_batches = {key for c in of_items for key in c.MODEL_FEATURES}
  for name in schema.names[1:] + schema.texts:
    if name in taken or f'user_{name}' in taken_of_batches:
      raise ValueError(
          f'Dataset {schema.name!r} has a feature {name!r}, a name that '
          'batches need for something else: rename the feature and prepare '
          'the dataset again.'
      )
