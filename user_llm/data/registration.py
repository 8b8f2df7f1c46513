"""The tasks of prepared datasets in seqio's registry."""

from collections.abc import Mapping

import seqio

from user_llm.data import pipeline
from user_llm.data import questions
from user_llm.data import schema as schema_lib
from user_llm.data import tasks


def seqio_task(
    dataset: pipeline.Dataset, *, text_only: bool = False
) -> seqio.Task:
  """The task by itself, example by example and unpadded.

  Args:
    dataset: The task.
    text_only: Whether to leave out the features of the history.
  """
  ids = (*dataset.schema.names, 'positions', 'segment_ids')
  name = dataset.name
  if text_only or dataset.task == 'text':
    ids = ()
  elif dataset.task != 'events':
    ids += ('history_end',)
  return tasks.make_task(
      f'{name}_as_text' if text_only else name,
      dataset.splits,
      id_features=ids,
      vocabulary=dataset.tokenizer if dataset.has_text else None,
  )


def register(
    *,
    data_dir: str,
    history_length: int,
    vocabulary: str | None = None,
    split_rule: schema_lib.SplitRule = schema_lib.LEAVE_ONE_OUT,
    targets_per_example: int = 1,
    review_text: str = 'review',
    history_as_text: questions.TextPromptConfig = questions.TextPromptConfig(),
) -> tuple[str, ...]:
  """Adds a prepared dataset's tasks to seqio's registry, replacing older ones.

  Then `seqio.get_mixture_or_task(name).get_dataset(split='train', seed=0)`
  yields unpadded examples, and `Dataset.converter` pads them. With `num_epochs`
  seqio repeats one order; ask for each epoch with a seed of its own.

  Args:
    data_dir: The prepared dataset.
    history_length: Events of a history (of a packed row for `<name>_events`).
    vocabulary: SentencePiece model; without one there are no text tasks.
    split_rule: Which events are held out.
    targets_per_example: Labels that share a history in training.
    review_text: The text of an event that is its review.
    history_as_text: If it has tokens, the tasks about users are text alone,
      prompt and answer, and are called `<name>_<task>_as_text`.

  Returns:
    The names: `<name>_events`, `<name>_next_item`, `<name>_favourite_<label>`
    and `<name>_future_favourite_<label>` (if the items have genres or
    categories), `<name>_review_generation` (if the events have that text),
    `<name>_text`.
  """
  schema = schema_lib.load_schema(data_dir=data_dir)
  text_only = history_as_text.tells
  names = []
  for task in tasks.TASKS:
    has_text = task != 'events'
    label = tasks.label_name(task)
    if (
        (has_text and vocabulary is None)
        or (label and label not in schema.names)
        or (task == 'review_generation' and review_text not in schema.texts)
        or (text_only and task in ('events', 'text'))
    ):
      continue
    dataset = pipeline.Dataset(
        data_dir=data_dir,
        task=task,
        history_length=history_length,
        split_rule=split_rule,
        vocabulary=vocabulary if has_text else None,
        targets_per_example=targets_per_example if has_text else 1,
        review_text=review_text,
        history_as_text=history_as_text,
    )
    found = seqio_task(dataset, text_only=text_only)
    if found.name in seqio.TaskRegistry.names():
      seqio.TaskRegistry.remove(found.name)
    seqio.TaskRegistry.add_provider(found.name, found)
    names.append(found.name)
  return tuple(names)


def register_mixture(name: str, rates: Mapping[str, float]) -> str:
  """Adds a mixture of registered tasks, replacing an older one.

  Tasks of one dataset mix if all are about users, or all are text alone; tasks
  of several datasets do as text alone, with one vocabulary.

  Args:
    name: Its name in seqio's registry.
    rates: How often each task's examples come, relative to the others.

  Returns:
    The name.

  Raises:
    ValueError: A task is not registered, or they do not have the same features.
  """
  unknown = [task for task in rates if task not in seqio.TaskRegistry.names()]
  if unknown:
    raise ValueError(
        f'Mixture {name!r}: {", ".join(unknown)} are not registered; call '
        '`registration.register` first.'
    )
  if name in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.remove(name)
  seqio.MixtureRegistry.add(name, list(rates.items()))
  return name
