"""seqio tasks of a prepared dataset: sources, preprocessors, the task itself.

The source numbers the examples of each split and cuts their windows; the
preprocessors ask the question. `pipeline.register` puts the tasks in seqio's
registry; the trainer reads the very same ones over a source in the run's order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
from typing import NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from user_llm.data import answers as answers_lib
from user_llm.data import examples
from user_llm.data import order as order_lib
from user_llm.data import records
from user_llm.data import schema as schema_lib
from user_llm.data import windowing

TASKS = ('events', 'next_item', 'favourite_genre', 'text')

Preprocessor = Callable[[tf.data.Dataset], tf.data.Dataset]


class Examples(NamedTuple):
  """The numbered examples of one split and how to read one.

  Attributes:
    table: Says how many there are and where each lies.
    cut: Reads the example that lies there.
  """

  table: examples.PackedRows | examples.Windows | examples.Texts
  cut: windowing.Cut


class ExampleSource(seqio.DataSource):
  """Yields examples in a stated order, from any place on.

  Without an order, as in seqio's registry, it yields one epoch of the split:
  permuted by the seed if shuffled, then sharded.
  """

  def __init__(
      self,
      splits: Mapping[str, Examples],
      host_order: order_lib.HostOrder | None = None,
  ):
    """Initialises it.

    Args:
      splits: The examples of each split.
      host_order: What this host reads in a run.
    """
    self._examples = dict(splits)
    self._order = host_order
    super().__init__(
        splits=tuple(splits),
        # Left unsaid for a run: seqio would cache a small split in memory.
        num_input_examples=None if host_order else {
            split: len(e.table) for split, e in splits.items()
        },
        caching_permitted=False,
        performs_internal_shuffling=True,
    )

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def _blocks(
      self,
      num_examples: int,
      shuffle: bool,
      seed: int | None,
      shard_info: seqio.ShardInfo | None,
  ) -> Iterator[np.ndarray]:
    if self._order is not None:
      yield from self._order.blocks(num_examples)
      return
    ids = np.arange(num_examples)
    if shuffle:
      ids = order_lib.example_indices(num_examples, seed or 0, 0, num_examples)
    if shard_info is not None:
      ids = ids[shard_info.index :: shard_info.num_shards]
    yield ids

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
    """See `seqio.DataSource`; an order given at construction overrules."""
    del sequence_length, use_cached, num_epochs
    table, cut = self._examples[split]

    def descriptions() -> Iterator[dict[str, np.ndarray]]:
      for ids in self._blocks(len(table), shuffle, seed, shard_info):
        yield {'example_id': ids, **table.describe(ids)}

    empty = {'example_id': 0, **table.describe(np.zeros(0, np.int64))}
    return (
        tf.data.Dataset.from_generator(
            descriptions,
            output_signature={
                k: tf.TensorSpec([None], tf.int64) for k in empty
            },
        )
        .unbatch()
        .map(cut, num_parallel_calls=tf.data.AUTOTUNE)
    )


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
  splits = {
      'train': Examples(rows, windowing.cut_packed_rows(log, modalities, rows))
  }
  for split in ('validation', 'test'):
    splits[split] = Examples(
        examples.windows(log, split_rule, split, history_length),
        windowing.cut_windows(log, modalities),
    )
  return splits


def window_splits(
    log: records.EventLog,
    *,
    modalities: tuple[str, ...],
    split_rule: schema_lib.SplitRule,
    history_length: int,
    targets_per_example: int = 1,
) -> dict[str, Examples]:
  """Examples of the text tasks; several targets a row in training only."""
  cut = windowing.cut_windows(log, modalities)
  targets = {'train': targets_per_example, 'validation': 1, 'test': 1}
  return {
      split: Examples(
          examples.windows(log, split_rule, split, history_length, count), cut
      )
      for split, count in targets.items()
  }


def text_splits(
    log: records.EventLog, vocabulary: seqio.SentencePieceVocabulary
) -> dict[str, Examples]:
  """Text for the decoder alone: each question once an item; training only.

  The answers are the item's title, and one of its genres.
  """
  parts = [(task_answers(log, 'next_item', vocabulary), [
      item.id for item in log.catalogue
  ])]
  if 'genre' in log.schema.names:
    genres = task_answers(log, 'favourite_genre', vocabulary)
    parts.append((genres, [
        genres.texts.index(item.labels[item.id % len(item.labels)]) + 1
        for item in log.catalogue if item.labels
    ]))
  width = max(answers.length for answers, _ in parts)
  texts = []
  for answers, ids in parts:
    prompt = np.tile(answers.prompt, (len(ids), 1))
    rows = np.concatenate([prompt, answers.tokens[ids]], axis=1)
    texts.append(np.pad(rows, [(0, 0), (0, width - rows.shape[1])]))
  tokens_NT = tf.constant(np.concatenate(texts))

  def cut(example: windowing.Example) -> windowing.Example:
    return {
        'example_id': tf.cast(example['example_id'], tf.int32),
        'prompts': tf.zeros([1, 0], tf.int32),
        'answers': tokens_NT[example['example_id']][None],
    }

  table = examples.Texts(size=len(tokens_NT), length=width)
  return {'train': Examples(table, cut)}


def task_answers(
    log: records.EventLog,
    task: str,
    vocabulary: seqio.SentencePieceVocabulary,
) -> answers_lib.Answers:
  """The question and all answers of 'next_item' or 'favourite_genre'."""
  if task == 'next_item':
    return answers_lib.next_item(log.catalogue, vocabulary)
  return answers_lib.favourite_genre(log.schema['genre'], vocabulary)


def answer_items(answers: answers_lib.Answers) -> Preprocessor:
  """Adds the question and the titles of the labels: `prompts`, `answers`."""
  tokens, prompt = tf.constant(answers.tokens), tf.constant(answers.prompt)

  def answer(example: windowing.Example) -> windowing.Example:
    rows = tf.gather(tokens, example['label_item'])
    prompts = tf.tile(prompt[None], [tf.shape(rows)[0], 1])
    return {**example, 'prompts': prompts, 'answers': rows}

  return lambda ds: ds.map(answer, num_parallel_calls=tf.data.AUTOTUNE)


def answer_genres(
    answers: answers_lib.Answers, genre: schema_lib.Modality
) -> Preprocessor:
  """Adds the favourite genre of what each target sees: `label`, as text too."""
  tokens, prompt = tf.constant(answers.tokens), tf.constant(answers.prompt)
  labels_VG = tf.constant(answers_lib.multi_hot(genre))

  def answer(example: windowing.Example) -> windowing.Example:
    label = answers_lib.favourite_labels(
        example[genre.name], example['history_end'], labels_VG
    )
    rows = tf.gather(tokens, label)
    prompts = tf.tile(prompt[None], [tf.shape(rows)[0], 1])
    return {**example, 'label': label, 'prompts': prompts, 'answers': rows}

  return lambda ds: ds.map(answer, num_parallel_calls=tf.data.AUTOTUNE)


def make_task(
    name: str,
    source: ExampleSource,
    preprocessors: Sequence[Preprocessor] = (),
    *,
    id_features: Sequence[str],
    vocabulary: seqio.Vocabulary | None = None,
) -> seqio.Task:
  """A seqio task.

  Args:
    name: Its name in seqio's registry.
    source: Yields histories.
    preprocessors: Add questions and answers.
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
    text = functools.partial(seqio.Feature, vocabulary, add_eos=False)
    features |= {'prompts': text(rank=2), 'answers': text(rank=2)}
  return seqio.Task(
      name,
      source=source,
      output_features=features,
      preprocessors=list(preprocessors),
      shuffle_buffer_size=None,
  )
