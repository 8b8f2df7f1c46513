"""The batches that the trainer and the evaluators read.

A batch goes: seqio task over a source in the run's order → feature converter →
batch. It is a pure function of (dataset, seed, step), on any number of hosts.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import hashlib
import pathlib

import numpy as np
import seqio
import tensorflow as tf

from user_llm.data import answers as answers_lib
from user_llm.data import batching
from user_llm.data import feature_converters
from user_llm.data import mixture
from user_llm.data import order as order_lib
from user_llm.data import records
from user_llm.data import schema as schema_lib
from user_llm.data import tasks
from user_llm.data import vocabulary as vocabulary_lib

Mixture = mixture.Mixture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """One task on one prepared dataset.

  Attributes:
    data_dir: The prepared dataset.
    task: 'events|next_item|favourite_genre|text'. The last is the decoder's
      own: the questions with answers from the catalogue, no user.
    history_length: L, events of a row.
    split_rule: Which events are held out.
    modalities: Those that a batch has, 'item' first; None for all.
    vocabulary: SentencePiece model of the text; None for 'events'.
    targets_per_example: P, consecutive labels that share a training row; each
      sees its own part of the history.
    packed: Whether training rows of 'events' hold several users.
    text_length: T, tokens of a training target; longer answers lose their end,
      in training only. None: as long as the longest.
  """

  data_dir: str
  task: str
  history_length: int
  split_rule: schema_lib.SplitRule = schema_lib.LEAVE_ONE_OUT
  modalities: tuple[str, ...] | None = None
  vocabulary: str | None = None
  targets_per_example: int = 1
  packed: bool = True
  text_length: int | None = None

  def __post_init__(self):
    if self.task not in tasks.TASKS:
      raise ValueError(
          f'TASK is {self.task!r}; it must be one of {", ".join(tasks.TASKS)}.'
      )
    if self.history_length <= 0:
      raise ValueError(
          f'HISTORY_LENGTH is {self.history_length}; it must be positive.'
      )
    bound = self.split_rule.max_history
    if bound is not None and self.history_length > bound:
      raise ValueError(
          f'HISTORY_LENGTH is {self.history_length}; the split rule '
          f'{self.split_rule.name!r} allows {bound} events at most.'
      )
    if not 1 <= self.targets_per_example <= self.history_length:
      raise ValueError(
          f'TARGETS_PER_EXAMPLE is {self.targets_per_example}; it must be in '
          f'1..{self.history_length}, HISTORY_LENGTH.'
      )
    if self.has_text != (self.vocabulary is not None):
      raise ValueError(
          f'VOCABULARY is {self.vocabulary!r} for the task {self.task!r}; '
          + ('give a SentencePiece model.' if self.has_text else 'drop it.')
      )

  @property
  def has_text(self) -> bool:
    return self.task != 'events'

  @functools.cached_property
  def schema(self) -> schema_lib.EventSchema:
    """The modalities that a batch has."""
    return schema_lib.load_schema(
        data_dir=self.data_dir, modalities=self.modalities
    )

  @property
  def log(self) -> records.EventLog:
    """All events, every modality."""
    return records.load_events(self.data_dir)

  @property
  def catalogue(self) -> tuple[schema_lib.CatalogueItem, ...]:
    return self.log.catalogue

  @property
  def name(self) -> str:
    return f'{self.schema.name}_{self.task}'

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of the split; the same for every task with this data and rule."""
    return self.log.split_fingerprint(self.split_rule)

  @functools.cached_property
  def identity(self) -> dict[str, str]:
    """Digests of what a checkpoint's ids mean."""
    catalogue = pathlib.Path(self.data_dir) / schema_lib.CATALOGUE_FILE
    digest = hashlib.sha256(catalogue.read_bytes()).hexdigest()[:16]
    if self.vocabulary is None:
      return {'catalogue': digest}
    return {
        'catalogue': digest,
        'vocabulary': vocabulary_lib.fingerprint(self.tokenizer),
    }

  @functools.cached_property
  def tokenizer(self) -> seqio.SentencePieceVocabulary:
    """The vocabulary, loaded."""
    if self.vocabulary is None:
      raise ValueError(f'Task {self.name!r} has no text.')
    return vocabulary_lib.load(self.vocabulary)

  @functools.cached_property
  def answers(self) -> answers_lib.Answers:
    """The question and all answers of 'next_item' or 'favourite_genre'."""
    return tasks.task_answers(self.log, self.task, self.tokenizer)

  @property
  def prompt_tokens(self) -> np.ndarray:
    """i32[1 + Q], bos and the question."""
    return np.concatenate([[vocabulary_lib.BOS_ID], self.answers.prompt])

  @functools.cached_property
  def _splits(self) -> Mapping[str, tasks.Examples]:
    if self.task == 'text':
      return tasks.text_splits(self.log, self.tokenizer)
    if self.task == 'events':
      return tasks.event_splits(
          self.log,
          modalities=self.schema.names,
          split_rule=self.split_rule,
          history_length=self.history_length,
          packed=self.packed,
      )
    return tasks.window_splits(
        self.log,
        modalities=self.log.schema.names,  # The genre is read for its label.
        split_rule=self.split_rule,
        history_length=self.history_length,
        targets_per_example=self.targets_per_example,
    )

  def num_examples(self, split: str) -> int:
    """Rows of an epoch of a split, 'train|validation|test'.

    Raises:
      ValueError: There is none.
    """
    if split not in self._splits:
      raise ValueError(
          f'Task {self.name!r} has no split {split!r}; it has '
          f'{", ".join(self._splits)}.'
      )
    size = len(self._splits[split].table)
    if not size:
      raise ValueError(
          f'The {split} split of {self.name!r} is empty: under the rule '
          f'{self.split_rule.name!r} a user needs '
          f'{self.split_rule.min_events} events or more. Choose another '
          f'SPLIT_RULE or DATA_DIR (now {self.data_dir}).'
      )
    return size

  def user_of_example(self, split: str, example_id: int) -> str:
    """Upstream's id of the user of an evaluation example."""
    where = self._splits[split].table.describe(np.array([example_id]))
    return self.log.users[int(where['user'][0])]

  def seqio_task(
      self, host_order: order_lib.HostOrder | None = None
  ) -> seqio.Task:
    """The task by itself; its source reads in `host_order` if one is given."""
    ids = (*self.schema.names, 'positions', 'segment_ids')
    preprocessors = ()
    if self.task == 'text':
      ids = ()
    elif self.task == 'next_item':
      ids += ('history_end',)
      preprocessors = (tasks.answer_items(self.answers),)
    elif self.task == 'favourite_genre':
      ids += ('history_end',)
      preprocessors = (
          tasks.answer_genres(self.answers, self.log.schema['genre']),
      )
    return tasks.make_task(
        self.name,
        tasks.ExampleSource(self._splits, host_order),
        preprocessors,
        id_features=ids,
        vocabulary=self.tokenizer if self.has_text else None,
    )

  def converter(
      self, split: str
  ) -> tuple[seqio.FeatureConverter, dict[str, int | tuple[int, int]]]:
    """The feature converter of a split, and the task feature lengths for it."""
    train = split == 'train'
    lengths: dict[str, int | tuple[int, int]] = {}
    if self.task == 'events':
      converter = feature_converters.EventsConverter(
          self.schema.names, train=train
      )
    else:
      label = {'next_item': 'label_item', 'favourite_genre': 'label'}
      converter = feature_converters.ConditionedLMConverter(
          () if self.task == 'text' else self.schema.names,
          label=None if train else label[self.task],
          bos_id=vocabulary_lib.BOS_ID,
      )
      targets = self.targets_per_example if train else 1
      lengths['history_end'] = targets
      lengths['answers'] = (targets, self._num_tokens(train))
      question = 0 if self.task == 'text' else len(self.answers.prompt)
      lengths['prompts'] = (targets, question)
    if not train:
      lengths['seen_item'] = max(1, self._splits[split].table.max_seen)
    return converter, {
        k: lengths.get(k, self.history_length) for k in converter.TASK_FEATURES
    }

  def _num_tokens(self, train: bool) -> int:
    if self.task == 'text':
      prompt, longest = 0, self._splits['train'].table.length
    else:
      prompt, longest = len(self.answers.prompt), self.answers.length
    if not train or self.text_length is None:
      return longest
    if self.text_length <= prompt:
      raise ValueError(
          f'TEXT_LENGTH is {self.text_length}; the question alone has {prompt} '
          f'tokens, with the longest answer it has {longest}.'
      )
    return self.text_length

  def _dataset(
      self, split: str, host_order: order_lib.HostOrder
  ) -> tf.data.Dataset:
    """One host's rows, converted and batched; the last batch may be short."""
    converter, lengths = self.converter(split)
    ds = self.seqio_task(host_order).get_dataset(
        split=split,
        shuffle=False,
        trim_output_features=False,
        try_in_mem_cache=False,
    )
    ds = converter(ds, lengths).batch(host_order.rows)
    return batching.with_options(ds.prefetch(2))

  def batch_spec(
      self, split: str, batch_size: int
  ) -> dict[str, batching.ArraySpec]:
    """Shape and dtype of each entry of a global batch."""
    self.num_examples(split)
    order = order_lib.HostOrder(batch_size=batch_size, seed=None)
    return {
        k: batching.ArraySpec(
            (batch_size, *spec.shape[1:]), np.dtype(spec.dtype.as_numpy_dtype)
        )
        for k, spec in self._dataset(split, order).element_spec.items()
    }

  def train_batches(
      self,
      *,
      batch_size: int,
      seed: int,
      start_step: int = 0,
      host: int = 0,
      num_hosts: int = 1,
  ) -> Iterator[batching.Batch]:
    """Yields this host's rows of the batches of steps start_step, ...

    Args:
      batch_size: Rows of a global batch, B.
      seed: Of the order.
      start_step: Where a run (re)starts.
      host: Gets the rows host * B / H .. (host + 1) * B / H - 1.
      num_hosts: H.

    Yields:
      Arrays [B / H, ...] by batch key, without end.
    """
    self.num_examples('train')
    order = order_lib.HostOrder(
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        host=host,
        num_hosts=num_hosts,
    )
    yield from self._dataset('train', order).as_numpy_iterator()

  def eval_batches(
      self, *, split: str, batch_size: int, host: int = 0, num_hosts: int = 1
  ) -> Iterator[batching.Batch]:
    """Yields a split once, in order; every host as many batches.

    Args:
      split: 'validation|test'.
      batch_size: Rows of a global batch, B.
      host: Gets the rows host * B / H .. (host + 1) * B / H - 1.
      num_hosts: H.

    Yields:
      Arrays [B / H, ...] by batch key; rows past the end have `example_id` -1
      and zeros.
    """
    size = self.num_examples(split)
    order = order_lib.HostOrder(
        batch_size=batch_size, seed=None, host=host, num_hosts=num_hosts
    )
    ds = self._dataset(split, order)
    batches = ds.as_numpy_iterator()
    empty = {
        k: np.zeros((0, *spec.shape[1:]), spec.dtype.as_numpy_dtype)
        for k, spec in ds.element_spec.items()
    }
    for _ in range(-(-size // batch_size)):
      yield batching.pad_rows(next(batches, empty), order.rows)


def register(
    *,
    data_dir: str,
    history_length: int,
    vocabulary: str | None = None,
    split_rule: schema_lib.SplitRule = schema_lib.LEAVE_ONE_OUT,
    targets_per_example: int = 1,
) -> tuple[str, ...]:
  """Adds a prepared dataset's tasks to seqio's registry, replacing older ones.

  Then `seqio.get_mixture_or_task(name).get_dataset(split='train', seed=0)`
  yields unpadded examples, and `Dataset.converter` pads them.

  Args:
    data_dir: The prepared dataset.
    history_length: Events of a history (of a packed row for `<name>_events`).
    vocabulary: SentencePiece model; without one there are no text tasks.
    split_rule: Which events are held out.
    targets_per_example: Labels that share a history in training.

  Returns:
    The names: `<name>_events`, `<name>_next_item`, `<name>_favourite_genre`
    (if the events have genres), `<name>_text`.
  """
  has_genre = 'genre' in schema_lib.load_schema(data_dir=data_dir).names
  names = []
  for task in tasks.TASKS:
    has_text = task != 'events'
    if has_text and vocabulary is None:
      continue
    if task == 'favourite_genre' and not has_genre:
      continue
    dataset = Dataset(
        data_dir=data_dir,
        task=task,
        history_length=history_length,
        split_rule=split_rule,
        vocabulary=vocabulary if has_text else None,
        targets_per_example=targets_per_example if has_text else 1,
    )
    if dataset.name in seqio.TaskRegistry.names():
      seqio.TaskRegistry.remove(dataset.name)
    seqio.TaskRegistry.add_provider(dataset.name, dataset.seqio_task())
    names.append(dataset.name)
  return tuple(names)
