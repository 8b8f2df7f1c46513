"""The examples of a task, and seqio tasks that yield them.

A source numbers the examples of each split and reads them, question and answer
included, a batch at a time. `registration` puts tasks that yield them one by
one in seqio's registry; the trainer takes the batches, in the run's order.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import functools

import numpy as np
import seqio
import tensorflow as tf

from user_llm.data import answers as answers_lib
from user_llm.data import examples
from user_llm.data import favourites
from user_llm.data import order as order_lib
from user_llm.data import prompts as prompts_lib
from user_llm.data import questions as questions_lib
from user_llm.data import records
from user_llm.data import schema as schema_lib
from user_llm.data import windowing

TASKS = (
    'events',
    'next_item',
    'favourite_genre',
    'favourite_category',
    'future_favourite_genre',
    'future_favourite_category',
    'review_generation',
    'text',
)

# Of a source outside a run; a run's batches are its own.
_BLOCK = 256


def label_name(task: str) -> str:
  """'genre' of 'favourite_genre' and 'future_favourite_genre', or ''."""
  return task.partition('favourite_')[2]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
  """The numbered examples of one split and how to read them.

  Attributes:
    table: Says how many there are and where each lies.
    read: Reads a batch of the examples that lie there.
    targets: int32[E] of a task about users: at each label event of the split
      the target, an id from 1, or 0 for none.
  """

  table: (
      examples.PackedRows | examples.Windows | examples.Subset | examples.Texts
  )
  read: windowing.Read
  targets: np.ndarray | None = None

  def batches(
      self, blocks: Callable[[], Iterable[np.ndarray]], seed: int
  ) -> tf.data.Dataset:
    """Reads examples, a batch for each block of their numbers.

    Args:
      blocks: Gives int64[B] each, whenever the dataset is iterated.
      seed: Chooses the wordings of the questions.
    """

    def describe(ids: np.ndarray) -> dict[str, np.ndarray]:
      return {
          'example_id': ids,
          'choice': prompts_lib.choices(seed, ids),
          **self.table.describe(ids),
      }

    return tf.data.Dataset.from_generator(
        lambda: map(describe, blocks()),
        output_signature={
            k: tf.TensorSpec([None], tf.int64)
            for k in describe(np.zeros(0, np.int64))
        },
    ).map(self.read, num_parallel_calls=2)


class ExampleSource(seqio.DataSource):
  """Yields the examples of an epoch one by one.

  They are permuted by the seed if shuffled, then sharded.
  """

  def __init__(self, splits: Mapping[str, Examples]):
    """Initialises it with the examples of each split."""
    self._examples = dict(splits)
    super().__init__(
        splits=tuple(splits),
        num_input_examples={s: len(e.table) for s, e in splits.items()},
        caching_permitted=False,
        performs_internal_shuffling=True,
    )

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def get_dataset(
      self,
      split: str = 'train',
      shuffle: bool = True,
      seed: int | None = None,
      shard_info: seqio.ShardInfo | None = None,
      *,
      sequence_length: Mapping[str, int] | None = None,
      use_cached: bool = False,
      num_epochs: int | None = 1,
  ) -> tf.data.Dataset:
    """See `seqio.DataSource`."""
    del sequence_length, use_cached, num_epochs
    size = len(self._examples[split].table)
    ids = np.arange(size)
    if shuffle:
      ids = order_lib.example_indices(size, seed or 0, 0, size)
    if shard_info is not None:
      ids = ids[shard_info.index :: shard_info.num_shards]
    blocks = [ids[i : i + _BLOCK] for i in range(0, len(ids), _BLOCK)]
    return self._examples[split].batches(lambda: blocks, seed or 0).unbatch()


def event_splits(
    log: records.EventLog,
    *,
    modalities: tuple[str, ...],
    split_rule: schema_lib.SplitRule,
    history_length: int,
    packed: bool = True,
) -> dict[str, Examples]:
  """Examples of the encoder: packed rows; to evaluate, a row a user."""
  rows = examples.packed_rows(log, split_rule, history_length, packed=packed)
  read = windowing.packed_rows_reader(log, modalities, rows)
  splits = {'train': Examples(table=rows, read=read)}
  for split in ('validation', 'test'):
    splits[split] = Examples(
        table=examples.windows(log, split_rule, split, history_length),
        read=windowing.windows_reader(log, modalities, seen=True),
    )
  return splits


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Asking:
  """A task's questions and answers.

  Attributes:
    label: The feature that holds a target: an id from 1.
    questions: Its wordings.
    history: The history as text before the question.
    answer: int32[N, A] answers, with eos, of int64[N] label events and int32[N]
      targets.
  """

  label: str
  questions: questions_lib.Questions
  history: questions_lib.HistoryText
  answer: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

  @property
  def longest_prompt(self) -> int:
    """Tokens of the history's budget and of the longest question."""
    return self.history.max_tokens + self.questions.longest


def answer_from(answers: answers_lib.Answers) -> Callable[..., tf.Tensor]:
  """`Asking.answer` of a task with few answers; a target is one's number."""
  tokens = tf.constant(answers.tokens)
  return lambda events, targets: tf.gather(tokens, targets)


def answer_with_text(
    texts: tf.RaggedTensor, eos_id: int
) -> Callable[..., tf.Tensor]:
  """`Asking.answer` of a task whose answer is the label event's own text."""

  def answer(events: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    eos = tf.where(targets > 0, eos_id, 0)
    rows = tf.concat([tf.gather(texts, events + 1), eos[:, None]], axis=1)
    return rows.to_tensor()

  return answer


def asking_reader(
    log: records.EventLog,
    modalities: tuple[str, ...],
    asking: Asking,
    targets: np.ndarray,
    *,
    seen: bool = False,
) -> windowing.Read:
  """Features of a history, questions about it and their answers.

  Args:
    log: The events.
    modalities: To read.
    asking: What is asked.
    targets: int32[E], at each label event that has one its target, else 0.
    seen: See `windowing.windows_reader`.

  Returns:
    A function like that of `windowing.windows_reader`, that adds for the p
    labels of each example int32[B, (p)] `asking.label`; int32[B, (p), Q]
    `prompts` and int32[B, (p), A] `answers`, both all 0 without a target; and,
    with the history as text, int32[B, (p)] `num_prompt_events`.
  """
  history, slots = asking.history, asking.questions.slots
  told = tuple(f for f in history.fields if f in log.schema.names)
  names = tuple(dict.fromkeys(modalities + told))
  read_history = windowing.windows_reader(log, names, seen=seen)
  # The items' own array is most often here already.
  is_item = targets is log.values['item']
  targets_E = windowing.tensor(log, 'item') if is_item else tf.constant(targets)
  slot_values = {slot: windowing.tensor(log, slot) for slot in slots}

  def read(rows: windowing.Example) -> windowing.Example:
    example = read_history(rows)
    labels = tf.ragged.range(rows['label'], rows['stop'])
    events = labels.flat_values
    target = tf.gather(targets_E, events)
    prompts = asking.questions(
        tf.gather(rows['choice'], labels.value_rowids()),
        {slot: tf.gather(ids, events) for slot, ids in slot_values.items()},
    )
    out = {asking.label: target, 'answers': asking.answer(events, target)}
    if history.fields:
      # A text's id is 1 + its event.
      event_ids = tf.ragged.range(rows['start'] + 1, rows['stop'])
      text, out['num_prompt_events'] = history(
          {f: example.get(f, event_ids) for f in history.fields},
          example['history_end'],
      )
      prompts = tf.concat([text, prompts], axis=1)
    is_target = tf.cast(target > 0, tf.int32)[:, None]
    shape = (None, asking.longest_prompt)
    out['prompts'] = prompts.to_tensor(shape=shape) * is_target
    out = {k: labels.with_flat_values(v) for k, v in out.items()}
    return windowing.to_int32({**example, **out})

  return read


def _targets(
    log: records.EventLog,
    task: str,
    split_rule: schema_lib.SplitRule,
    split: str,
    table: examples.Windows,
    review_text: str,
) -> np.ndarray:
  """`Examples.targets`."""
  if task == 'next_item':
    return log.values['item']
  where = table.describe(np.arange(len(table)))
  counts = where['stop'] - where['label']
  labels = examples.ranges(where['label'], counts)
  if task == 'review_generation':
    has_text = log.texts(review_text)[labels] != b''
    found = np.where(has_text, log.values['item'][labels], 0)
  else:
    begins, ends = np.repeat(where['start'], counts), labels
    if task.startswith('future'):
      users = np.repeat(where['user'], counts)
      begins, ends = labels, favourites.future_ends(
          log, split_rule, split, labels, users
      )
    modality = log.schema[label_name(task)]
    found = favourites.favourites(log, modality, begins, ends)
  targets = np.zeros_like(log.values['item'])
  targets[labels] = found
  return targets


def window_splits(
    log: records.EventLog,
    *,
    task: str,
    modalities: tuple[str, ...],
    split_rule: schema_lib.SplitRule,
    history_length: int,
    targets_per_example: int,
    asking: Asking,
    review_text: str,
) -> dict[str, Examples]:
  """Examples of the text tasks; several targets a row in training only."""
  splits = {}
  for split in ('train', 'validation', 'test'):
    num_targets = targets_per_example if split == 'train' else 1
    table = examples.windows(
        log, split_rule, split, history_length, num_targets
    )
    targets = _targets(log, task, split_rule, split, table, review_text)
    splits[split] = Examples(
        table=examples.with_targets(table, targets),
        read=asking_reader(
            log, modalities, asking, targets, seen=split != 'train'
        ),
        targets=targets,
    )
  return splits


def make_task(
    name: str,
    splits: Mapping[str, Examples],
    *,
    id_features: Sequence[str],
    vocabulary: seqio.Vocabulary | None = None,
) -> seqio.Task:
  """A seqio task.

  Args:
    name: Its name in seqio's registry.
    splits: The examples of each split.
    id_features: The features of every example that are int32[n].
    vocabulary: Of `prompts` and `answers`; None if the task has no text.

  Returns:
    The task; not registered.
  """
  ids = seqio.Feature(
      vocabulary=seqio.PassThroughVocabulary(size=0),
      add_eos=False,
      dtype=tf.int32,
  )
  features = {key: ids for key in id_features}
  if vocabulary is not None:
    text = functools.partial(seqio.Feature, vocabulary, add_eos=False, rank=2)
    features |= {'prompts': text(), 'answers': text()}
  return seqio.Task(
      name,
      source=ExampleSource(splits),
      output_features=features,
      preprocessors=[],
      shuffle_buffer_size=None,
  )
