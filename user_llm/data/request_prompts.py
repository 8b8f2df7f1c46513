"""The prompts of questions about users from outside."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from user_llm.data import asking as asking_lib
from user_llm.data import feature_converters
from user_llm.data import requests as requests_lib


def prompt_tokens(
    asking: asking_lib.Asking,
    requests: Sequence[requests_lib.Request],
    history_length: int,
    rows: int,
    bos_id: int,
) -> np.ndarray:
  """Fills the first wording of a task's question.

  Args:
    asking: The task.
    requests: Users with what the question names, at most `rows`.
    history_length: L; only the last L events of each user are told.
    rows: B; the rest is padding.
    bos_id: Starts every prompt.

  Returns:
    int32[B, 1, 1 + Q], as `prompt_tokens` of an evaluation.

  Raises:
    ValueError: A request lacks what the question or the prompt names.
  """
  for request in requests:
    for slot in asking.questions.slots:
      if slot not in request.about:
        raise ValueError(
            f'{request.where}: the question {request.question!r} names '
            f'the {slot}; write {{"question": "{request.question}", "{slot}": '
            '..., "history": [...]}.'
        )
    for field in asking.history.fields:
      if any(field not in event for event in request.events):
        raise ValueError(
            f'{request.where}: the prompt tells the text {field!r} of every '
            'event, which a request cannot give; use a model without it in '
            'PROMPT_FIELDS.'
        )
  slots = {
      slot: tf.constant([r.about[slot] for r in requests])
      for slot in asking.questions.slots
  }
  histories = [r.events[-history_length:] for r in requests]
  history = {
      field: tf.ragged.constant(
          [[e[field] for e in events] for events in histories],
          dtype=tf.int32, row_splits_dtype=tf.int64,
      )
      for field in asking.history.fields
  }
  ends = tf.ragged.constant(
      [[len(events)] for events in histories],
      dtype=tf.int32, row_splits_dtype=tf.int64,
  )
  text, _ = asking.history(history, ends)
  question = asking.questions(tf.zeros([len(requests)], tf.int64), slots)
  prompts = tf.concat([text, question], axis=1).to_tensor(
      shape=(None, asking.longest_prompt)
  )
  tokens = feature_converters.prompt_tokens(prompts, bos_id)
  return np.pad(
      tokens.numpy()[:, None], [(0, rows - len(requests)), (0, 0), (0, 0)]
  )
