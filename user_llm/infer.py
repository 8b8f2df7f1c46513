"""The entry function `infer`: questions about users in, answers out."""

from collections.abc import Sequence
import json
from typing import Any

import jax

from user_llm import answer_evaluator
from user_llm import checkpoints as checkpoints_lib
from user_llm import optimizers
from user_llm import partitioning
from user_llm import restore
from user_llm.data import pipeline
from user_llm.data import requests as requests_lib
from user_llm.objectives import conditioned_lm


def infer(
    *,
    workdir: str,
    input: str,  # pylint: disable=redefined-builtin
    output: str,
    objective: conditioned_lm.ConditionedLM,
    dataset: pipeline.Dataset | pipeline.Mixture,
    optimizer: optimizers.AdamW,
    num_steps: int,
    batch_size: int,
    evaluators: Sequence[answer_evaluator.AnswerEvaluator],
    seed: int = 0,
    trainable: Sequence[str] = ('.*',),
    init_from: Sequence[checkpoints_lib.InitFrom] = (),
    mesh: partitioning.MeshConfig = partitioning.MeshConfig(),
    step: int | None = None,
    num_answers: int = 10,
) -> None:
  """Answers each line of a JSONL file of users.

  In: {"user": "u1", "history": ["Heat (1995)", {"item": "50", "rating": 5}],
  "question": "next_item"}. Out, one line each and in the same order: {"user":
  "u1", "question": "next_item", "answers": [{"text": ..., "score": log p},
  ...]}. Next items leave out what the history has.

  Args:
    workdir: Of a contextualised run.
    input: Path of the users.
    output: Path to write, whole or not at all.
    objective: As it was trained; likewise the arguments down to `mesh`.
    dataset: See objective.
    optimizer: See objective.
    num_steps: See objective.
    batch_size: See objective.
    evaluators: What can be asked: the task of each one's dataset.
    seed: See objective.
    trainable: See objective.
    init_from: See objective.
    mesh: Sizes of the mesh axes.
    step: Of the checkpoint; None: the newest.
    num_answers: To write a question.

  Raises:
    ValueError: the workdir answers no questions, or the input is bad: its file
      and line are named and nothing is written.
  """
  by_task = {
      e.dataset.task: e
      for e in evaluators
      if isinstance(e, answer_evaluator.AnswerEvaluator)
  }
  if not by_task:
    raise ValueError(
        f'--workdir={workdir} is of a run that answers no questions; give one '
        'of runs/contextualize.gin.'
    )
  some = next(iter(by_task.values())).dataset
  reader = requests_lib.RequestReader(
      some.schema, some.catalogue, some.log.schema
  )
  requests = list(reader.read(input))
  for request in requests:
    if request.question not in by_task:
      raise ValueError(
          f'{request.where}: "question" is {request.question!r}; this model '
          f'answers {", ".join(by_task)}.'
      )
  device_mesh = mesh.make()
  params = restore.params(
      workdir=workdir,
      objective=objective,
      dataset=dataset,
      optimizer=optimizer,
      num_steps=num_steps,
      batch_size=batch_size,
      seed=seed,
      trainable=trainable,
      init_from=init_from,
      mesh=device_mesh,
      step=step,
  )
  lines: dict[int, dict[str, Any]] = {}
  for task, evaluator in by_task.items():
    asked = [(i, r) for i, r in enumerate(requests) if r.question == task]
    for start in range(0, len(asked), evaluator.batch_size):
      part = asked[start : start + evaluator.batch_size]
      answers = _answer(
          [r for _, r in part], evaluator, objective, params, device_mesh,
          num_answers,
      )
      for (i, request), found in zip(part, answers):
        lines[i] = {'user': request.user, 'question': task, 'answers': found}
  with requests_lib.whole_file(output) as file:
    for i in range(len(requests)):
      file.write(json.dumps(lines[i], ensure_ascii=False).encode() + b'\n')
  print(f'{len(requests)} answers -> {output}')


def _answer(
    requests: Sequence[requests_lib.Request],
    evaluator: answer_evaluator.AnswerEvaluator,
    objective: conditioned_lm.ConditionedLM,
    params: Any,
    mesh: jax.sharding.Mesh,
    num_answers: int,
) -> list[list[dict[str, Any]]]:
  """The answers of one batch of requests for one task."""
  dataset = evaluator.dataset
  rows = evaluator.batch_size
  batch = requests_lib.batch(
      requests, dataset.schema, dataset.history_length, rows
  )
  batch['prompt_tokens'] = dataset.request_prompts(requests, rows)
  with jax.set_mesh(mesh):
    found = jax.device_get(
        evaluator.search(
            objective,
            params,
            jax.device_put(batch, partitioning.batch_sharding(mesh)),
        )
    )
  prefix = 'unseen_' if 'unseen_answers' in found else ''
  return [
      answer_evaluator.answers_as_text(
          evaluator.answers,
          found[f'{prefix}answers'][i],
          found[f'{prefix}scores'][i],
          num_answers,
      )
      for i in range(len(requests))
  ]
