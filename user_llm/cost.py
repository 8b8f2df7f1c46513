"""The entry function `cost`: what one request costs, beside a text prompt."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import jax
from rich import console as rich_console

from user_llm import cost_model
from user_llm import run_logging
from user_llm.data import history_prompts
from user_llm.models import layers
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm
from user_llm.report import cost_plot
from user_llm.report import costs
from user_llm.runtime import distributed

Prompts = history_prompts.GivenPrompts | history_prompts.TypicalPrompts


def cost(
    *,
    output: str,
    models: Mapping[str, user_llm.UserLLMConfig],
    prompts: Prompts,
    question_tokens: int = 32,
    new_tokens: Sequence[int] = (8, 64),
    rounds: int = 5,
) -> None:
  """Counts and times one request: a user's history and a question.

  The text prompt tells the history in words; the other models read its events
  and have only the question as text. FLOPs are those of the matrix products in
  the programs that are timed, user encoder and resampler included: they are the
  same on any device. Parameters and ids are random: no cost depends on their
  values.

  Args:
    output: Directory to write: cost.csv, cost.json, cost.png, cost.svg.
    models: By name; the one without a user is the text prompt. Where its
      context is too short, it keeps the last events, and is said to.
    prompts: Lengths of histories, and of these as text.
    question_tokens: Of the question.
    new_tokens: Lengths of the answer.
    rounds: Of measuring.

  Raises:
    ValueError: a number is bad, or there is not one text prompt.
  """
  distributed.check_alone('cost')
  _check_numbers(question_tokens, new_tokens, rounds)
  text_names = [name for name, m in models.items() if not m.has_user]
  if len(text_names) != 1 or len(models) < 2:
    raise ValueError(
        f'MODELS has {len(text_names)} models without a user among '
        f'{list(models)}: it needs one, the text prompt, and others beside it.'
    )
  lengths = prompts.lengths(question_tokens)
  context_length = models[text_names[0]].decoder.context_length
  fits = {
      n: history_prompts.fitting(
          n, tokens, question_tokens, context_length, max(new_tokens)
      )
      for n, tokens in lengths.items()
  }
  # Before minutes are spent on what could not be written.
  directory = pathlib.Path(output)
  directory.mkdir(parents=True, exist_ok=True)
  requests = {}
  held = {}
  for name, model in models.items():
    seen = {
        n: (n, question_tokens) if model.has_user else fits[n] for n in lengths
    }
    for n, request in _requests(name, model, seen, new_tokens).items():
      requests[name, n], held[name, n] = request, seen[n][0]
  measured = _measure(requests, held, rounds)
  comparison = costs.Comparison(
      text={c.events: c for c in measured if c.model == text_names[0]},
      others=[c for c in measured if c.model != text_names[0]],
      facts=_facts(context_length, question_tokens, lengths, rounds),
  )
  _report(directory, comparison)


def _check_numbers(
    question_tokens: int, new_tokens: Sequence[int], rounds: int
) -> None:
  for name, value in (
      ('QUESTION_TOKENS', question_tokens),
      ('ROUNDS', rounds),
      *(('NEW_TOKENS', n) for n in new_tokens),
  ):
    if not isinstance(value, int) or value < 1:
      raise ValueError(f'{name} must be a positive integer, not {value!r}.')
  if not new_tokens:
    raise ValueError('NEW_TOKENS is empty; give the lengths of the answer.')


def _requests(
    name: str,
    model: user_llm.UserLLMConfig,
    seen: Mapping[int, tuple[int, int]],
    new_tokens: Sequence[int],
) -> dict[int, cost_model.Request]:
  """By events: requests in which the model sees (events, prompt tokens)."""
  stacked = conditioned_lm.ConditionedLM(model=model)
  batches = {n: cost_model.make_batch(model, *seen[n]) for n in seen}
  params = cost_model.make_params(stacked, next(iter(batches.values())))
  objective, params = stacked.unstacked(params)
  requests = {}
  for n, batch in batches.items():
    tokens = batch['prompt_tokens'].size
    print(f'Compiling {name}: {n} events, {tokens:,} tokens ...', flush=True)
    requests[n] = cost_model.Request(objective, params, batch, new_tokens)
  return requests


def _measure(
    requests: Mapping[tuple[str, int], cost_model.Request],
    held: Mapping[tuple[str, int], int],
    rounds: int,
) -> list[costs.Cost]:
  """Counts, then times all together."""
  print(f'Measuring, {rounds} rounds ...', flush=True)
  calls = {}
  for key, request in requests.items():
    calls[key, 0] = request.prefill
    calls |= {(key, n): write for n, write in request.write.items()}
  timings = cost_model.time_calls(calls, rounds)
  return [
      costs.Cost(
          model=name,
          events=events,
          events_held=held[name, events],
          llm_tokens=request.llm_tokens(),
          prefill_flops=request.prefill_flops(),
          masked_flops=request.masked_flops(),
          request_flops={n: request.request_flops(n) for n in request.write},
          step_params=sum(x.size for x in request.step_params()),
          step_param_bytes=sum(x.nbytes for x in request.step_params()),
          kv_bytes=request.kv_bytes(),
          prefill=timings[(name, events), 0],
          request={n: timings[(name, events), n] for n in request.write},
      )
      for (name, events), request in requests.items()
  ]


def _facts(
    context_length: int,
    question_tokens: int,
    lengths: Mapping[int, int],
    rounds: int,
) -> dict[str, Any]:
  """What was measured, on what."""
  dtype = layers.compute_dtype().name
  return {
      'about': f'{run_logging.hardware()}; {dtype}; one request at a time; '
      'medians',
      'command': run_logging.command(),
      'jax': jax.__version__,
      'time': run_logging.timestamp(),
      'rounds': rounds,
      'context_length': context_length,
      'question_tokens': question_tokens,
      'prompt_tokens': dict(lengths),
  }


def _report(
    directory: pathlib.Path, comparison: costs.Comparison
) -> None:
  costs.write_files(directory, comparison)
  cost_plot.write(directory, comparison)
  console = rich_console.Console()
  if not console.is_terminal:
    console.width = 140  # A file has no edge.
  console.print(costs.cost_table(comparison))
  console.print()
  console.print(costs.ratio_table(comparison))
  for n, text in comparison.text.items():
    if text.events_held < n:
      console.print(
          f'The context of {comparison.facts["context_length"]:,} tokens holds '
          f'{text.events_held} of {n} events of the text prompt.'
      )
  console.print(f'{directory}/cost.csv, .json, .png, .svg')
