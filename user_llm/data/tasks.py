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
from user_llm.data import asking as asking_lib
from user_llm.data import examples
from user_llm.data import favourites
from user_llm.data import order as order_lib
from user_llm.data import prompts as prompts_lib
from user_llm.data import records
from user_llm.data import schema as schema_lib
from user_llm.data import vocabulary as vocabulary_lib
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


def labels_of(schema: schema_lib.EventSchema, task: str) -> schema_lib.Modality:
  """The modality that a favourite task asks for.

  Raises:
    ValueError: the items have none such.
  """
  name, other = label_name(task), schema.label_modality
  if name in schema.names:
    return schema[name]
  mend = (
      f"give --gin.FAVOURITE_TASK='\"favourite_{other.name}\"'"
      if other
      else 'include data/next_item.gin, which asks for items alone'
  )
  raise ValueError(
      f'{task}: items of the dataset {schema.name!r} have no {name}; {mend}.'
  )


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
    max_eval_examples: int | None = None,
) -> dict[str, Examples]:
  """Examples of the encoder: packed rows; to evaluate, a row a user.

  `max_eval_examples` of a held-out split at most, evenly spread.
  """
  rows = examples.packed_rows(log, split_rule, history_length, packed=packed)
  read = windowing.packed_rows_reader(log, modalities, rows)
  splits = {'train': Examples(table=rows, read=read)}
  for split in ('validation', 'test'):
    table = examples.windows(log, split_rule, split, history_length)
    splits[split] = Examples(
        table=examples.evenly_spread(table, max_eval_examples),
        read=windowing.windows_reader(log, modalities, seen=True),
    )
  return splits


@functools.lru_cache(maxsize=8)
def answers_of(
    log: records.EventLog, task: str, vocabulary: str
) -> answers_lib.Answers:
  """All answers of a task that has such; made once a process."""
  tokenizer = vocabulary_lib.load(vocabulary)
  if label_name(task):
    return answers_lib.favourite(labels_of(log.schema, task), tokenizer)
  return answers_lib.next_item(log.catalogue, tokenizer)


@functools.lru_cache(maxsize=16)
def _with_targets(
    log: records.EventLog,
    task: str,
    split_rule: schema_lib.SplitRule,
    split: str,
    history_length: int,
    num_targets: int,
    review_text: str,
) -> tuple[examples.Windows | examples.Subset, np.ndarray, tf.Tensor]:
  """The examples that have a target, and `Examples.targets`, which tf has too.

  Made once a process.
  """
  table = examples.windows(log, split_rule, split, history_length, num_targets)
  if task == 'next_item':
    return table, log.values['item'], windowing.tensor(log, 'item')
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
    modality = labels_of(log.schema, task)
    found = favourites.favourites(log, modality, begins, ends)
  targets = np.zeros_like(log.values['item'])
  targets[labels] = found
  return examples.with_targets(table, targets), targets, tf.constant(targets)


def window_splits(
    log: records.EventLog,
    *,
    task: str,
    modalities: tuple[str, ...],
    split_rule: schema_lib.SplitRule,
    history_length: int,
    targets_per_example: int,
    asking: asking_lib.Asking,
    review_text: str,
    max_eval_examples: int | None = None,
) -> dict[str, Examples]:
  """Examples of the text tasks; several targets a row in training only.

  `max_eval_examples` of a held-out split at most, evenly spread.
  """
  splits = {}
  for split in ('train', 'validation', 'test'):
    num_targets = targets_per_example if split == 'train' else 1
    table, targets, targets_E = _with_targets(
        log, task, split_rule, split, history_length, num_targets, review_text
    )
    if split != 'train':
      table = examples.evenly_spread(table, max_eval_examples)
    splits[split] = Examples(
        table=table,
        read=asking_lib.reader(
            log, modalities, asking, targets_E, seen=split != 'train'
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
