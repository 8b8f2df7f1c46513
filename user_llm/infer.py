"""The entry function `infer`: questions about users in, answers out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
from typing import Any, NamedTuple

import jax
import numpy as np

from user_llm import answer_evaluator
from user_llm import atomic
from user_llm import evaluator as evaluator_lib
from user_llm import partitioning
from user_llm import restore
from user_llm import text_evaluator
from user_llm.data import requests as requests_lib
from user_llm.data import schema as schema_lib
from user_llm.decoding import generate
from user_llm.objectives import conditioned_lm
from user_llm.objectives import objective as objective_lib

_Evaluator = answer_evaluator.AnswerEvaluator | text_evaluator.TextEvaluator


class _Question(NamedTuple):
  """A request, its number in the file, and i32[1, T], its prompt."""

  index: int
  request: requests_lib.Request
  prompt: np.ndarray


def infer(
    *,
    workdir: str,
    input: str,  # pylint: disable=redefined-builtin
    output: str,
    run: restore.TrainedRun,
    evaluators: Sequence[evaluator_lib.Evaluator],
    step: int | None = None,
    num_answers: int = 10,
    generation: generate.GenerationConfig = generate.GenerationConfig(),
) -> None:
  """Answers each line of a JSONL file of users.

  In: {"user": "u1", "history": ["Heat (1995)", {"item": "50", "rating": 5}],
  "question": "next_item"}; a question about an item names it: {"question":
  "review_generation", "item": "50", "rating": 5, ...}. Out, one line each and
  in the same order: {"user": "u1", "question": "next_item", "answers":
  [{"text": ..., "score": log p}, ...]}. Next items leave out what the history
  has, and each has its title's ids besides: "items": ["50"]. With an empty
  history the decoder answers as it would by itself.

  Args:
    workdir: Of a contextualised run.
    input: Path of the users.
    output: Path to write, whole or not at all.
    run: How the workdir was made.
    evaluators: What can be asked: the task of each one's dataset.
    step: Of the checkpoint; None: the newest.
    num_answers: To write a question, if it has as many; the beam is as wide
      if BEAM_SIZE is less. Of free text there is one unless texts are drawn or
      searched for.
    generation: How free text is chosen.

  Raises:
    ValueError: the workdir answers no questions, or the input is bad: its file
      and line are named and nothing is written.
  """
  if not isinstance(num_answers, int) or num_answers < 1:
    raise ValueError(f'NUM_ANSWERS must be positive, not {num_answers!r}.')
  by_task = _by_task(evaluators, generation, num_answers, workdir)
  asked = _read(input, by_task)
  for task in asked:
    evaluator = by_task[task]
    objective_lib.check_length(
        run.objective,
        evaluator.num_tokens,
        task,
        evaluator.dataset.history_length,
    )
  lines: dict[int, dict[str, Any]] = {}
  is_writer = jax.process_index() == 0
  # Opened before hours are spent on what could not be written.
  with (
      atomic.write(output) if is_writer else contextlib.nullcontext()
  ) as file:
    device_mesh = run.mesh.make()
    params = run.params(workdir, device_mesh, step)
    objective, params = run.objective.unstacked(params)
    for task, questions in asked.items():
      answers = _answers(
          questions, by_task[task], objective, params, device_mesh, num_answers
      )
      if task == 'next_item':
        answers = _with_items(answers, questions, by_task[task])
      for question, found in zip(questions, answers):
        lines[question.index] = {
            'user': question.request.user, 'question': task, 'answers': found
        }
    if file is None:
      return
    for i in range(len(lines)):
      file.write(json.dumps(lines[i], ensure_ascii=False).encode() + b'\n')
  print(f'{len(lines)} answers -> {output}')


def _by_task(
    evaluators: Sequence[evaluator_lib.Evaluator],
    generation: generate.GenerationConfig,
    num_answers: int,
    workdir: str,
) -> dict[str, _Evaluator]:
  """What answers each task's question."""
  by_task: dict[str, _Evaluator] = {}
  for evaluator in evaluators:
    if isinstance(evaluator, text_evaluator.TextEvaluator):
      evaluator = dataclasses.replace(evaluator, generation=generation)
    elif isinstance(evaluator, answer_evaluator.AnswerEvaluator):
      beam_size = max(evaluator.beam_size, num_answers)
      evaluator = dataclasses.replace(evaluator, beam_size=beam_size)
    else:
      continue
    by_task[evaluator.dataset.task] = evaluator
  if not by_task:
    raise ValueError(
        f'--workdir={workdir} is of a run that answers no questions; give one '
        'of runs/contextualize.gin.'
    )
  return by_task


def _read(
    path: str, by_task: Mapping[str, _Evaluator]
) -> dict[str, list[_Question]]:
  """The requests of a file by task, each checked, its question tokenised."""
  datasets = [evaluator.dataset for evaluator in by_task.values()]
  some = datasets[0]
  told = {field for d in datasets for field in d.asking.history.fields}
  read = [m for m in some.log.schema.names if m in {*some.schema.names, *told}]
  reader = requests_lib.RequestReader(
      some.log.schema.select(read), some.catalogue, some.log.schema
  )
  requests = list(reader.read(path))
  for request in requests:
    if request.question not in by_task:
      asks = request.question is not None
      raise ValueError(
          f'{request.where}: '
          + (f'"question" is {request.question!r}' if asks else
             'has no "question"')
          + f'; this model answers {", ".join(by_task)}.'
      )
  asked = {}
  for task, evaluator in by_task.items():
    numbers = [i for i, r in enumerate(requests) if r.question == task]
    if numbers:
      mine = [requests[i] for i in numbers]
      prompts = evaluator.dataset.request_prompts(mine, len(mine))
      asked[task] = list(map(_Question, numbers, mine, prompts))
  return asked


def _answers(
    questions: Sequence[_Question],
    evaluator: _Evaluator,
    objective: conditioned_lm.ConditionedLM,
    params: Any,
    mesh: jax.sharding.Mesh,
    num_answers: int,
) -> Iterator[list[dict[str, Any]]]:
  """The answers to questions of one task."""
  dataset = evaluator.dataset
  rows = partitioning.batch_rows(evaluator.batch_size, mesh)
  for start in range(0, len(questions), rows):
    part = questions[start : start + rows]
    batch = requests_lib.batch(
        [q.request for q in part], dataset.schema, dataset.history_length, rows
    )
    batch['prompt_tokens'] = np.zeros((rows, *part[0].prompt.shape), np.int32)
    for i, question in enumerate(part):
      batch['prompt_tokens'][i] = question.prompt
      # Of the file, so that what is drawn does not depend on the batches.
      batch['example_id'][i] = question.index
    answers = evaluator.answer(objective, params, batch, mesh, num_answers)
    yield from answers[: len(part)]


def _with_items(
    answers: Iterable[list[dict[str, Any]]],
    questions: Sequence[_Question],
    evaluator: answer_evaluator.AnswerEvaluator,
) -> Iterator[list[dict[str, Any]]]:
  """Adds to each title the ids of its items, without those of the history."""
  titles = evaluator.answers
  items: dict[str, list[schema_lib.CatalogueItem]] = {}
  for item in evaluator.dataset.catalogue:
    items.setdefault(titles.texts[titles.of_item[item.id]], []).append(item)
  for question, found in zip(questions, answers):
    seen = {event['item'] for event in question.request.events}
    for answer in found:
      answer['items'] = [
          item.source_id for item in items[answer['text']]
          if item.id not in seen
      ]
    yield found
