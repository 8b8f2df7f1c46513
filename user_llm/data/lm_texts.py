"""Text for the decoder alone, before it reads any user; training only."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from user_llm.data import examples
from user_llm.data import prompts
from user_llm.data import questions as questions_lib
from user_llm.data import records
from user_llm.data import schema as schema_lib
from user_llm.data import tasks
from user_llm.data import token_tables
from user_llm.data import vocabulary as vocabulary_lib
from user_llm.data import windowing


def _catalogue_texts(
    log: records.EventLog, vocabulary: str
) -> tf.RaggedTensor:
  """Each item's title and one of its labels, each after its question."""
  tokenizer = vocabulary_lib.load(vocabulary)
  asked = [('next_item', [item.title for item in log.catalogue])]
  if (modality := log.schema.label_modality) is not None:
    labels = [
        item.labels[item.id % len(item.labels)]
        for item in log.catalogue if item.labels
    ]
    asked.append((f'favourite_{modality.name}', labels))
  parts = []
  for task, answers in asked:
    questions = questions_lib.Questions(
        prompts.templates(task, log.schema), log, vocabulary
    )
    choice = prompts.choices(0, np.arange(len(answers)))
    eos = tf.fill([len(answers), 1], tokenizer.eos_id)
    parts.append(tf.concat(
        [
            questions(tf.constant(choice), {}),
            token_tables.token_table(answers, tokenizer),
            eos,
        ],
        axis=1,
    ))
  return tf.concat(parts, axis=0)


def _with_reviews(
    log: records.EventLog,
    vocabulary: str,
    review_text: str,
    catalogue: tf.RaggedTensor,
    reviews: np.ndarray,
) -> Callable[[windowing.Example], tf.RaggedTensor]:
  """Reads rows of `catalogue` and, by the numbers after it, those reviews."""
  questions = questions_lib.Questions(
      prompts.templates('review_generation', log.schema), log, vocabulary
  )
  texts = questions_lib.value_table(log, review_text, vocabulary, limit=None)
  events_N = tf.constant(reviews)
  slots = {slot: windowing.tensor(log, slot) for slot in questions.slots}
  num_catalogue = catalogue.nrows()
  eos_id = vocabulary_lib.load(vocabulary).eos_id

  def read(rows: windowing.Example) -> tf.RaggedTensor:
    ids = rows['example_id']
    events = tf.gather(events_N, tf.maximum(ids - num_catalogue, 0))
    review = tf.concat(
        [
            questions(
                rows['choice'],
                {slot: tf.gather(ids, events) for slot, ids in slots.items()},
            ),
            tf.gather(texts, events + 1),
            tf.fill([tf.size(ids), 1], eos_id),
        ],
        axis=1,
    )
    other = tf.gather(catalogue, tf.minimum(ids, num_catalogue - 1))
    position = tf.range(tf.size(ids, tf.int64))
    # Of both, one after the other.
    wanted = tf.where(
        ids < num_catalogue, position, position + tf.size(ids, tf.int64)
    )
    return tf.gather(tf.concat([other, review], axis=0), wanted)

  return read


def text_splits(
    log: records.EventLog,
    *,
    vocabulary: str,
    split_rule: schema_lib.SplitRule,
    review_text: str,
) -> dict[str, tasks.Examples]:
  """What the other tasks ask and answer, without users.

  First each item's title and one of its labels, each after its question; then
  the texts of the training events, if the dataset has texts.

  Args:
    log: The events.
    vocabulary: See `vocabulary.load`.
    split_rule: Says which events train.
    review_text: Which text of an event, where there are texts.

  Returns:
    The split 'train'; `answers` are whole texts and `prompts` have no tokens.
  """
  catalogue = _catalogue_texts(log, vocabulary)
  events = examples.train_events(log, split_rule)
  has_texts = bool(log.schema.texts)
  reviews = events[log.texts(review_text)[events] != b''] if has_texts else []
  table = examples.Texts(
      size=catalogue.nrows().numpy() + len(reviews),
      length=token_tables.longest(catalogue),
  )
  read = lambda rows: tf.gather(catalogue, rows['example_id'])
  if len(reviews):
    read = _with_reviews(log, vocabulary, review_text, catalogue, reviews)

  def read_tokens(rows: windowing.Example) -> windowing.Example:
    tokens = read(rows).to_tensor()[:, None]
    return windowing.to_int32({
        'example_id': rows['example_id'],
        'prompts': tf.RaggedTensor.from_tensor(tokens[..., :0]),
        'answers': tf.RaggedTensor.from_tensor(tokens),
    })

  return {'train': tasks.Examples(table=table, read=read_tokens)}
