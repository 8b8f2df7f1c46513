"""Rows of result tables: of one run, or of several seeds together.

Shapes: N examples.
"""

from collections.abc import Iterable, Mapping
import dataclasses

import numpy as np

from user_llm import metrics as metrics_lib
from user_llm import per_example as per_example_lib
from user_llm.report import runs as runs_lib

ENCODER_HEAD = 'encoder_head'
# What models are called, in the order of tables: what is trained, whatever has
# no name here, and what is known beforehand; the base decoder is what training
# started from.
TRAINED = {
    'user_llm': 'User-LLM (text)',
    ENCODER_HEAD: 'Encoder head',
    'dual_encoder': 'Dual encoder',
    'bert4rec': 'BERT4Rec',
    'gru4rec': 'GRU4Rec',
}
FLOORS = {
    'popularity': 'Popularity',
    'markov': 'Markov',
    'favourite_so_far': 'Favourite so far',
    'most_frequent_genre': 'Most frequent genre',
    'most_frequent_category': 'Most frequent category',
    'most_frequent_answer': 'Most frequent text',
    'copy_title': "The item's title",
}
CEILINGS = {
    'bayes_optimal': 'Bayes-optimal',
    'counting_oracle': 'Counting oracle',
    'base_decoder': 'Decoder before training',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A mean and its standard error: over examples, or of several seeds' means.

  Of k seeds with means m it is sd(m) / sqrt(k).
  """

  mean: float
  stderr: float | None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Row:
  """One model's line in a table, and where it comes from.

  Attributes:
    model: Its name, such as 'user_llm'.
    detail: What tells it from other rows of that model; '' if there are none.
    metrics: By 'name/policy', or 'name' alone.
    runs: Names of the runs, one a seed; of floors, all that have it.
    label: What the runs are called together; '' if that follows from names.
    seeds: Theirs; of floors none.
    identity: Of the runs' configuration.
    task: Of the evaluations.
    step: At which they were made.
    num_examples: Of each.
    protocol: How the numbers are to be read.
    values: f64[N] by metric, what the metrics are means of, themselves means
      over the seeds; empty where no file has them.
    per_example: Facts about the examples.
  """

  model: str
  detail: str
  metrics: Mapping[str, Estimate]
  runs: tuple[str, ...]
  label: str
  seeds: tuple[int, ...]
  identity: str
  task: str
  step: int
  num_examples: int
  protocol: str
  values: Mapping[str, np.ndarray]
  per_example: per_example_lib.PerExample

  @property
  def is_ceiling(self) -> bool:
    return self.model in CEILINGS

  @property
  def is_floor(self) -> bool:
    return self.model in FLOORS

  @property
  def is_model(self) -> bool:
    """Whether it was trained: neither floor nor ceiling."""
    return not (self.is_floor or self.is_ceiling)

  @property
  def has_seeds(self) -> bool:
    """Whether the standard errors are over seeds."""
    return len(self.seeds) > 1

  @property
  def run(self) -> str:
    """The runs in a word: 'lora', 'lora_*', '3 runs'."""
    if self.is_model or len(self.runs) == 1:
      return runs_lib.together(self.runs, self.label)
    return f'{len(self.runs)} runs'


def rows_of(run: runs_lib.Run, evaluation: runs_lib.Evaluation) -> list[Row]:
  """Every model of one evaluation."""
  kept = evaluation.per_example
  seed = evaluation.raw.get('seed')
  return [
      Row(
          model=model,
          detail='',
          metrics={
              name: Estimate(mean=value['mean'], stderr=value.get('stderr'))
              for name, value in metrics.items()
          },
          runs=(run.name,),
          label=run.label,
          seeds=() if seed is None else (seed,),
          identity=run.identity,
          task=evaluation['task'],
          step=evaluation['step'],
          num_examples=evaluation['num_examples'],
          protocol=evaluation.protocol,
          values=kept.metrics(model),
          per_example=kept,
      )
      for model, metrics in evaluation['models'].items()
  ]


def joined(rows: Iterable[Row]) -> list[Row]:
  """Joins the seeds of a configuration, and floors that are the same.

  Two runs of one configuration and one seed stay two rows.
  """
  groups: dict[object, list[list[Row]]] = {}
  for row in rows:
    if row.is_floor or row.is_ceiling:
      means = sorted((name, value.mean) for name, value in row.metrics.items())
      kept = row.per_example.identity
      key = (row.model, row.num_examples, kept, tuple(means))
      groups.setdefault(key, [[]])[0].append(row)
      continue
    key = (
        row.model, row.identity, row.task, row.step, row.num_examples,
        row.protocol, row.per_example.identity,
    )
    group = groups.setdefault(key, [])
    other = next((g for g in group if _is_another_seed(row, g)), None)
    if other is None:
      group.append([row])
    else:
      other.append(row)
  return [_join(rows) for group in groups.values() for rows in group]


def _is_another_seed(row: Row, others: list[Row]) -> bool:
  return bool(row.seeds) and not any(row.seeds == o.seeds for o in others)


def _join(rows: list[Row]) -> Row:
  first = rows[0]
  names = tuple(dict.fromkeys(row.runs[0] for row in rows))
  if first.is_floor or first.is_ceiling:
    with_values = next((row for row in rows if row.values), first)
    return dataclasses.replace(with_values, runs=names, seeds=())
  if len(rows) == 1:
    return first
  return dataclasses.replace(
      first,
      runs=names,
      seeds=tuple(row.seeds[0] for row in rows),
      metrics={
          name: _over_seeds([row.metrics[name].mean for row in rows])
          for name in first.metrics
          if all(name in row.metrics for row in rows)
      },
      values={
          name: np.mean([row.values[name] for row in rows], axis=0)
          for name in first.values
          if all(name in row.values for row in rows)
      },
  )


def _over_seeds(means: list[float]) -> Estimate:
  """Example: 0.1, 0.2, 0.3 -> 0.2 with the standard error 0.1 / sqrt(3)."""
  return Estimate(**metrics_lib.estimate(np.array(means))._asdict())


def told_apart(rows: list[Row]) -> tuple[Row, ...]:
  """Gives rows of one model a detail: their run; floors how many examples."""
  by_model: dict[str, list[Row]] = {}
  for row in rows:
    by_model.setdefault(row.model, []).append(row)
  return tuple(
      dataclasses.replace(row, detail=_detail(row, by_model[row.model]))
      for row in rows
  )


def _detail(row: Row, others: list[Row]) -> str:
  """'' for the only row of its model; `others` has the row itself too."""
  if len(others) == 1:
    return ''
  same_size = [o for o in others if o.num_examples == row.num_examples]
  if row.is_model or len(same_size) > 1:
    return row.run
  return f'n = {row.num_examples:,}'
