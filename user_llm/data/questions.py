"""Questions as tokens, and before them, if asked, the history as text."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import tensorflow as tf

from user_llm.data import label_counts
from user_llm.data import prompts
from user_llm.data import records
from user_llm.data import token_tables
from user_llm.data import vocabulary as vocabulary_lib
from user_llm.data import windowing

# A longer title or text loses its end where it is part of a prompt.
MAX_VALUE_TOKENS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPromptConfig:
  """The history as text before the question.

  Attributes:
    max_tokens: Budget of the history: the most recent events that fit in it
      whole are told, oldest first. 0: none, the prompt is the question.
    max_events: Events that are told at most; None: as many as fit.
    fields: Modalities and texts to tell of each event, in this order; none: all
      modalities.
    summary_labels: Before the events, how often the most frequent genres or
      categories are among all that may be seen; 0: nothing.
  """

  max_tokens: int = 0
  max_events: int | None = None
  fields: tuple[str, ...] = ()
  summary_labels: int = 0

  @property
  def tells(self) -> bool:
    """Whether there is anything before the question."""
    return self.max_tokens > 0 or self.summary_labels > 0

  def __post_init__(self):
    number = self.summary_labels
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
      raise ValueError(
          'TextPromptConfig.summary_labels (SUMMARY_LABELS) is '
          f'{number!r}; it must be a whole number of labels, 0 for no summary.'
      )
    if not isinstance(self.max_tokens, int) or self.max_tokens < 0:
      raise ValueError(
          f'TextPromptConfig.max_tokens (PROMPT_TOKENS) is '
          f'{self.max_tokens!r}; it must be a whole number of tokens, 0 for no '
          'history.'
      )
    if self.max_events is None:
      return
    if not isinstance(self.max_events, int) or self.max_events < 1:
      raise ValueError(
          f'TextPromptConfig.max_events (PROMPT_EVENTS) is '
          f'{self.max_events!r}; it must be a positive whole number, or None '
          'for as many as fit in PROMPT_TOKENS.'
      )
    if not self.max_tokens:
      raise ValueError(
          f'PROMPT_EVENTS is {self.max_events} and PROMPT_TOKENS 0: no event '
          'would be told. Give them PROMPT_TOKENS, or set PROMPT_EVENTS to '
          'None.'
      )


@functools.lru_cache(maxsize=64)
def value_table(
    log: records.EventLog,
    name: str,
    vocabulary: str,
    suffix: str = '',
    limit: int | None = MAX_VALUE_TOKENS,
) -> tf.RaggedTensor:
  """Tokens of what each id stands for; made once a process.

  Args:
    log: The events.
    name: Of a modality; or of a text, where event e has id 1 + e.
    vocabulary: See `vocabulary.load`.
    suffix: Follows each value.
    limit: Tokens of a value.

  Returns:
    int32[1 + N, (tokens)]; row 0 (padding) is empty.
  """
  if name == 'item':
    values = [item.title for item in log.catalogue]
  elif name in log.schema.names:
    values = [' '.join(labels) for labels in log.schema[name].labels()]
  else:
    values = [text.decode() for text in log.texts(name)]
  texts = ['', *(value + suffix for value in values)]
  return token_tables.token_table(
      texts, vocabulary_lib.load(vocabulary), limit
  )


class Questions:
  """The wordings of one task's question, with their slots filled."""

  def __init__(
      self,
      templates: Sequence[str],
      log: records.EventLog,
      vocabulary: str,
  ):
    """Tokenises.

    Args:
      templates: Of `prompts.templates`; the same slots in each.
      log: Says what fills the slots.
      vocabulary: See `vocabulary.load`.
    """
    tokenizer = vocabulary_lib.load(vocabulary)
    pieces, slots = zip(*map(prompts.pieces, templates))
    self.slots: tuple[str, ...] = slots[0]
    self._num_templates = len(templates)
    self._pieces = [
        token_tables.token_table(p, tokenizer) for p in zip(*pieces)
    ]
    self._values = [value_table(log, slot, vocabulary) for slot in self.slots]
    self.longest = sum(
        token_tables.longest(t) for t in self._pieces + self._values
    )
    self.shortest = sum(int(min(t.row_lengths())) for t in self._pieces)

  def __call__(
      self, choice: tf.Tensor, values: Mapping[str, tf.Tensor]
  ) -> tf.RaggedTensor:
    """int32[N, (tokens)]: N questions.

    Args:
      choice: int[N] of `prompts.choices`.
      values: int[N] ids for each slot.
    """
    choice %= self._num_templates
    parts = [tf.gather(self._pieces[0], choice)]
    for slot, table, piece in zip(
        self.slots, self._values, self._pieces[1:]
    ):
      parts += [tf.gather(table, values[slot]), tf.gather(piece, choice)]
    return tf.concat(parts, axis=1)


class HistoryText:
  """Histories as text: 'Heat (1995), Action Crime, 5; Casino (1995), ...;'.

  And before it, if asked, `label_counts.LabelCounts`.

  Attributes:
    max_tokens: Of the longest text.
    fields: Modalities and texts that are read.
  """

  def __init__(
      self,
      config: TextPromptConfig,
      log: records.EventLog,
      vocabulary: str,
  ):
    """Tokenises every value of the fields; none if no token may be used."""
    self._events_tokens = self.max_tokens = config.max_tokens
    self._max_events = config.max_events
    fields = (config.fields or log.schema.names) if config.max_tokens else ()
    suffixes = [','] * (len(fields) - 1) + [';']
    self._values = {
        field: value_table(log, field, vocabulary, suffix)
        for field, suffix in zip(fields, suffixes)
    }
    self.fields = tuple(fields)
    self._summary = None
    if config.summary_labels:
      self._summary = label_counts.LabelCounts(
          log, config.summary_labels, vocabulary
      )
      self.max_tokens += self._summary.max_tokens
      self.fields = tuple(
          dict.fromkeys((*self.fields, self._summary.modality))
      )

  def __call__(
      self,
      values: Mapping[str, tf.RaggedTensor],
      history_end: tf.RaggedTensor,
  ) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Tells what each target may see.

    Worked example, max_tokens 5, events of 2, 3 and 2 tokens: a target that
    sees all three is told the last two; one that sees the first two, both. With
    max_events 1 each is told its last one.

    Args:
      values: int[B, (events)] ids of each field; of a text, 1 + the event.
      history_end: int[B, (p)]; target q may see events 0 .. history_end[q] - 1.

    Returns:
      int32[N, (tokens)] for the N targets of all rows, at most `max_tokens`
      each; and int32[N], how many events each is told one by one.
    """
    if not self._values:
      none = tf.zeros_like(history_end.flat_values)
      empty = tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int32), none)
      text, told = empty.with_row_splits_dtype(tf.int64), none
    else:
      text, told = self._last_events(values, history_end)
    if self._summary is None:
      return text, told
    summary = self._summary(values[self._summary.modality], history_end)
    return tf.concat([summary, text], axis=1), told

  def _last_events(
      self,
      values: Mapping[str, tf.RaggedTensor],
      history_end: tf.RaggedTensor,
  ) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """See `__call__`, without the summary."""
    tokens = tf.concat(
        [
            tf.gather(table, values[field].flat_values)
            for field, table in self._values.items()
        ],
        axis=1,
    )
    splits = tokens.row_splits
    first = tf.gather(
        values[self.fields[0]].row_splits, history_end.value_rowids()
    )
    end = first + tf.cast(history_end.flat_values, tf.int64)
    stop = tf.gather(splits, end)
    earliest = tf.searchsorted(
        splits, stop - self._events_tokens, out_type=tf.int64
    )
    begin = tf.maximum(first, earliest)
    if self._max_events is not None:
      begin = tf.maximum(begin, end - self._max_events)
    told = tf.ragged.range(tf.gather(splits, begin), stop)
    return (
        windowing.lookup(tokens.flat_values, told),
        tf.cast(end - begin, tf.int32),
    )
