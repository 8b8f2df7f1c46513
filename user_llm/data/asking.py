"""What is asked about users: prompts and answers beside their histories."""

from collections.abc import Callable
import dataclasses

import tensorflow as tf

from user_llm.data import answers as answers_lib
from user_llm.data import prompts
from user_llm.data import questions as questions_lib
from user_llm.data import records
from user_llm.data import vocabulary as vocabulary_lib
from user_llm.data import windowing


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
  def least(self) -> int:
    """Tokens of the shortest question."""
    return self.questions.shortest

  @property
  def longest_prompt(self) -> int:
    """Tokens of the history's budget and of the longest question."""
    return self.history.max_tokens + self.questions.longest


def _answer_from(answers: answers_lib.Answers) -> Callable[..., tf.Tensor]:
  """`Asking.answer` of a task with few answers; a target is one's number."""
  tokens = tf.constant(answers.tokens)
  return lambda events, targets: tf.gather(tokens, targets)


def _answer_with_text(
    texts: tf.RaggedTensor, eos_id: int
) -> Callable[..., tf.Tensor]:
  """`Asking.answer` of a task whose answer is the label event's own text."""

  def answer(events: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    eos = tf.where(targets > 0, eos_id, 0)
    rows = tf.concat([tf.gather(texts, events + 1), eos[:, None]], axis=1)
    return rows.to_tensor()

  return answer


def about_users(
    log: records.EventLog,
    task: str,
    *,
    vocabulary: str,
    answers: answers_lib.Answers | None,
    review_text: str,
    max_review_tokens: int | None,
    history_as_text: questions_lib.TextPromptConfig,
) -> Asking:
  """What a task asks.

  Args:
    log: Says what can fill a question, and has the reviews.
    task: 'next_item', a favourite task or 'review_generation'.
    vocabulary: SentencePiece model.
    answers: All of them; None for reviews.
    review_text: The text of an event that is its review.
    max_review_tokens: A longer review loses its end.
    history_as_text: Of the prompt.
  """
  if answers is not None:
    answer = _answer_from(answers)
  else:
    answer = _answer_with_text(
        questions_lib.value_table(
            log, review_text, vocabulary, limit=max_review_tokens
        ),
        vocabulary_lib.load(vocabulary).eos_id,
    )
  return Asking(
      label='label' if 'favourite' in task else 'label_item',
      questions=questions_lib.Questions(
          prompts.templates(task, log.schema), log, vocabulary
      ),
      history=questions_lib.HistoryText(history_as_text, log, vocabulary),
      answer=answer,
  )


def reader(
    log: records.EventLog,
    modalities: tuple[str, ...],
    asking: Asking,
    targets_E: tf.Tensor,
    *,
    seen: bool = False,
) -> windowing.Read:
  """Features of a history, questions about it and their answers.

  Args:
    log: The events.
    modalities: To read.
    asking: What is asked.
    targets_E: int32[E], at each label event that has one its target, else 0.
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
  slot_values = {slot: windowing.tensor(log, slot) for slot in slots}

  def read(rows: windowing.Example) -> windowing.Example:
    example = read_history(rows)
    labels = tf.ragged.range(rows['label'], rows['stop'])
    events = labels.flat_values
    target = tf.gather(targets_E, events)
    prompt = asking.questions(
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
      prompt = tf.concat([text, prompt], axis=1)
    is_target = tf.cast(target > 0, tf.int32)[:, None]
    shape = (None, asking.longest_prompt)
    out['prompts'] = prompt.to_tensor(shape=shape) * is_target
    out = {k: labels.with_flat_values(v) for k, v in out.items()}
    return windowing.to_int32({**example, **out})

  return read
