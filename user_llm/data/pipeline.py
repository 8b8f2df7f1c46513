"""The batches that the trainer and the evaluators read.

A batch goes: numbers of examples in the run's order → their events, questions
and answers → feature converter. It is a pure function of (dataset, seed, step),
on any number of hosts, and each step is done for the whole batch at once.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import pathlib

import numpy as np
import seqio
import tensorflow as tf

from user_llm.data import answers as answers_lib
from user_llm.data import asking as asking_lib
from user_llm.data import batching
from user_llm.data import examples
from user_llm.data import feature_converters
from user_llm.data import lm_texts
from user_llm.data import manifest as manifest_lib
from user_llm.data import mixture
from user_llm.data import order as order_lib
from user_llm.data import questions
from user_llm.data import records
from user_llm.data import request_prompts
from user_llm.data import requests as requests_lib
from user_llm.data import schema as schema_lib
from user_llm.data import tasks
from user_llm.data import vocabulary as vocabulary_lib

Mixture = mixture.Mixture


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """One task on one prepared dataset.

  Attributes:
    data_dir: The prepared dataset.
    task: 'events', for the encoder; 'next_item'; 'favourite_genre|category', of
      what the model may see; 'future_favourite_genre|category', of what comes
      next (`favourites.future_ends`); 'review_generation', the text of the
      label event; or 'text', the decoder's own: questions with answers, and
      reviews if there are, but no user.
    history_length: L, events of a row.
    split_rule: Which events are held out.
    modalities: Those that a batch has, 'item' first; None for all.
    vocabulary: Of the text, see `vocabulary.load`; None for 'events'.
    targets_per_example: P, consecutive labels that share a training row; each
      sees its own part of the history.
    packed: Whether training rows of 'events' hold several users.
    text_length: T, tokens of a training target, prompt and answer; longer ones
      lose their end, in training only. None: as long as the longest (of 'text':
      of the catalogue). 'review_generation' has no longest: it needs a length,
      and loses ends in evaluation too.
    review_text: The text of an event that is its review.
    history_as_text: The history as text in the prompt.
    max_eval_examples: Of a held-out split, evenly spread; None: all.
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
  review_text: str = 'review'
  history_as_text: questions.TextPromptConfig = questions.TextPromptConfig()
  max_eval_examples: int | None = None

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
    limit = self.max_eval_examples
    if limit is not None and (not isinstance(limit, int) or limit < 1):
      raise ValueError(
          f'MAX_EVAL_EXAMPLES is {limit!r}; it must be a positive integer, or '
          'None for all.'
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
    """What trains: the events, the rule, and what a checkpoint's ids mean."""
    catalogue = pathlib.Path(self.data_dir) / schema_lib.CATALOGUE_FILE
    found = {
        'catalogue': manifest_lib.sha256_of(catalogue)[:16],
        'events': manifest_lib.records_digest(manifest_lib.load(self.data_dir)),
        'split_rule': repr(self.split_rule),
    }
    if self.vocabulary is not None:
      found['vocabulary'] = vocabulary_lib.fingerprint(self.tokenizer)
    return found

  @functools.cached_property
  def tokenizer(self) -> seqio.Vocabulary:
    """The vocabulary, loaded."""
    if self.vocabulary is None:
      raise ValueError(f'Task {self.name!r} has no text.')
    return vocabulary_lib.load(self.vocabulary)

  @property
  def has_answers(self) -> bool:
    """Whether the task's answers can be enumerated."""
    return self.task == 'next_item' or bool(self.label_name)

  @property
  def label_name(self) -> str:
    """'genre' or 'category' of a favourite task, else ''."""
    return tasks.label_name(self.task)

  @property
  def answers(self) -> answers_lib.Answers:
    """All answers, of a task that `has_answers`."""
    return tasks.answers_of(self.log, self.task, self.vocabulary)

  @functools.cached_property
  def asking(self) -> asking_lib.Asking:
    """The questions of a task about users, and how they are answered."""
    return asking_lib.about_users(
        self.log,
        self.task,
        vocabulary=self.vocabulary,
        answers=self.answers if self.has_answers else None,
        review_text=self.review_text,
        max_review_tokens=self.text_length,
        history_as_text=self.history_as_text,
    )

  @functools.cached_property
  def splits(self) -> Mapping[str, tasks.Examples]:
    """The numbered examples of each split."""
    self.log.check_counts(self.split_rule)
    if self.task == 'text':
      return lm_texts.text_splits(
          self.log,
          vocabulary=self.vocabulary,
          split_rule=self.split_rule,
          review_text=self.review_text,
      )
    if self.task == 'events':
      return tasks.event_splits(
          self.log,
          modalities=self.schema.names,
          split_rule=self.split_rule,
          history_length=self.history_length,
          packed=self.packed,
          max_eval_examples=self.max_eval_examples,
      )
    return tasks.window_splits(
        self.log,
        task=self.task,
        modalities=self.schema.names,
        split_rule=self.split_rule,
        history_length=self.history_length,
        targets_per_example=self.targets_per_example,
        asking=self.asking,
        review_text=self.review_text,
        max_eval_examples=self.max_eval_examples,
    )

  def table(self, split: str) -> examples.Windows | examples.Subset:
    """Where the examples of a split of a task about users lie."""
    return self.splits[split].table

  def num_examples(self, split: str) -> int:
    """Rows of an epoch of a split, 'train|validation|test'.

    Raises:
      ValueError: There is none.
    """
    if split not in self.splits:
      raise ValueError(
          f'Task {self.name!r} has no split {split!r}; it has '
          f'{", ".join(self.splits)}.'
      )
    size = len(self.splits[split].table)
    if not size:
      why = f'a user needs {self.split_rule.min_events} events or more'
      first, stop = self.log.label_bounds(self.split_rule, split)
      if (stop > first).any():  # They have no target.
        why = f'no event has a {self.label_name or self.review_text}'
      raise ValueError(
          f'The {split} split of {self.name!r} is empty: under the rule '
          f'{self.split_rule.name!r} {why}. Choose another SPLIT_RULE or '
          f'DATA_DIR (now {self.data_dir}).'
      )
    return size

  def user_of_example(self, split: str, example_id: int) -> str:
    """Upstream's id of the user of an evaluation example."""
    where = self.table(split).describe(np.array([example_id]))
    return self.log.users[int(where['user'][0])]

  def label_events(self, split: str, example_ids: np.ndarray) -> np.ndarray:
    """int64[N]: where in the log evaluation examples have their labels."""
    return self.table(split).describe(example_ids)['label']

  def request_prompts(
      self, requests: Sequence[requests_lib.Request], rows: int
  ) -> np.ndarray:
    """`prompt_tokens` of users from outside; see `request_prompts`."""
    return request_prompts.prompt_tokens(
        self.asking, requests, self.history_length, rows,
        self.tokenizer.bos_id,
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
      is_text = self.task == 'text'
      converter = feature_converters.ConditionedLMConverter(
          () if is_text else self.schema.names,
          label=None if train else self.asking.label,
          history_as_text=self.history_as_text.tells,
          bos_id=self.tokenizer.bos_id,
      )
      targets = self.targets_per_example if train else 1
      lengths['history_end'] = lengths['num_prompt_events'] = targets
      lengths['answers'] = (targets, self.num_tokens(split))
      lengths['prompts'] = (
          targets, 0 if is_text else self.asking.longest_prompt
      )
    if not train:
      lengths['seen_item'] = max(1, self.splits[split].table.max_seen)
    return converter, {
        k: lengths.get(k, self.history_length) for k in converter.TASK_FEATURES
    }

  def num_tokens(self, split: str) -> int:
    """T, tokens of a target of a split."""
    prompt, longest = 0, None
    if self.task == 'text':
      longest = self.splits['train'].table.length
    else:
      prompt = self.asking.longest_prompt
      if self.has_answers:
        longest = prompt + self.answers.tokens.shape[1]
    if longest is not None and (split != 'train' or self.text_length is None):
      return longest
    if self.text_length is None or self.text_length <= prompt:
      raise ValueError(
          f'TEXT_LENGTH is {self.text_length} for the task {self.name!r}, '
          f'whose prompt may have {prompt} tokens'
          + (f'; with the longest answer {longest}.' if longest else
             '; add what a review may have.')
      )
    if self.has_answers:
      self.answers.warn_of_cuts(self.name, self.text_length, self.asking.least)
    return self.text_length

  def _dataset(
      self, split: str, order: order_lib.HostOrder
  ) -> tf.data.Dataset:
    """One host's batches; the last of an evaluation may be short."""
    converter, lengths = self.converter(split)
    found = self.splits[split]
    ds = found.batches(
        lambda: order.blocks(len(found.table)), order.seed or 0
    ).map(
        lambda batch: converter.convert(batch, lengths), num_parallel_calls=2
    )
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
