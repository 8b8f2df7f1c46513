"""Reads what runs have left in their workdirs and puts it side by side."""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

# What is known beforehand; the base decoder is what training started from.
CEILINGS = ('bayes_optimal', 'counting_oracle', 'base_decoder')
FLOORS = (
    'popularity', 'markov', 'favourite_so_far', 'most_frequent_genre',
    'most_frequent_category', 'most_frequent_answer', 'copy_title',
)
_ORDER = ('user_llm', 'encoder_head', 'dual_encoder', *FLOORS, *CEILINGS)
# A suffix of another goes behind it.
_TASK_KINDS = {
    'events': 'next item',
    **{
        task: task.replace('_', ' ')
        for task in (
            'next_item', 'future_favourite_genre', 'future_favourite_category',
            'favourite_genre', 'favourite_category', 'review_generation',
            'held_out_text',
        )
    },
}
_LOWER_IS_BETTER = ('bits_per_byte', 'bits_added')
# -log p(answer): in the JSON files and the curves, no measure of the answers.
_NO_COLUMN = ('answer_nats',)
_METRIC_ORDER = (
    'recall@1', 'recall@5', 'recall@10', 'ndcg@10', 'mrr',
    'rouge1', 'rouge2', 'rougeL', 'exact_match',
    'bits_per_byte', 'bits_added',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A mean over examples and its standard error."""

  mean: float
  stderr: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One model's line in a table, and where it comes from."""

  model: str
  metrics: dict[str, Estimate]  # By 'name/policy', or 'name' alone.
  run: str
  task: str
  step: int
  num_examples: int
  protocol: str

  @property
  def is_ceiling(self) -> bool:
    return self.model in CEILINGS

  @property
  def is_floor(self) -> bool:
    return self.model in FLOORS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """All models measured on the same question over the same users."""

  dataset: str
  kind: str  # 'next item', 'favourite genre', or the task's name.
  split: str
  split_rule: str
  split_fingerprint: str
  rows: tuple[Row, ...]

  @property
  def title(self) -> str:
    return f'{self.dataset}: {self.kind}'

  @property
  def metrics(self) -> tuple[str, ...]:
    """Names without the policy, in reading order."""
    names = {m.split('/')[0] for row in self.rows for m in row.metrics}
    known = [m for m in _METRIC_ORDER if m in names]
    return (*known, *sorted(names - set(known)))

  @property
  def policies(self) -> tuple[str, ...]:
    """'unseen' and 'all', or '' where the metrics have no policy."""
    found = {m.partition('/')[2] for row in self.rows for m in row.metrics}
    return tuple(p for p in ('unseen', 'all', '') if p in found)

  def best(self, metric: str) -> float | None:
    """The best mean of a model that is no ceiling."""
    means = [
        row.metrics[metric].mean
        for row in self.rows
        if metric in row.metrics and not row.is_ceiling
    ]
    best = min if metric in _LOWER_IS_BETTER else max
    return best(means, default=None)

  @property
  def has_mixed_counts(self) -> bool:
    return len({row.num_examples for row in self.rows}) > 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """One workdir."""

  workdir: pathlib.Path
  info: dict[str, Any]
  history: tuple[dict[str, float], ...]  # Lines of metrics.jsonl.
  evaluations: tuple[dict[str, Any], ...]  # The eval/<task>/<step>.json files.

  @property
  def name(self) -> str:
    return self.info.get('name', self.workdir.name)


def load_run(workdir: str) -> Run:
  """Reads one workdir; anything but the directory itself may be missing."""
  folder = pathlib.Path(workdir).resolve()
  if not folder.is_dir():
    raise ValueError(f'--workdirs: {workdir} is not a directory.')
  info = folder / 'run.json'
  metrics = folder / 'metrics.jsonl'
  return Run(
      workdir=folder,
      info=_parse(info, info.read_text()) if info.is_file() else {},
      history=tuple(
          _parse(metrics, line) for line in metrics.read_text().splitlines()
      )
      if metrics.is_file()
      else (),
      evaluations=tuple(
          _parse(path, path.read_text())
          for path in sorted(folder.glob('eval/*/*.json'))
      ),
  )


def _parse(path: pathlib.Path, text: str) -> Any:
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f'{path} is no valid JSON: {error}.') from error


def latest_evaluations(run: Run) -> list[dict[str, Any]]:
  """The newest evaluation of each task; the test split goes before others."""
  newest: dict[str, dict[str, Any]] = {}
  for evaluation in run.evaluations:
    old = newest.get(evaluation['task'])
    if old is None or _rank(evaluation) >= _rank(old):
      newest[evaluation['task']] = evaluation
  return list(newest.values())


def _rank(evaluation: dict[str, Any]) -> tuple[bool, int]:
  return evaluation['split'] == 'test', evaluation['step']


def split_task(task: str) -> tuple[str, str]:
  """'ml_1m_next_item' -> ('ml_1m', 'next item')."""
  for suffix, kind in _TASK_KINDS.items():
    if task.endswith(f'_{suffix}'):
      return task.removesuffix(f'_{suffix}'), kind
  return task, 'accuracy'


def make_tables(runs: Sequence[Run]) -> list[Table]:
  """Joins the runs' evaluations: one table a dataset, question and split.

  The encoder's own head and the text model answer the same question about the
  same users, so they share a table if their split fingerprints agree. A row
  that several evaluations have is taken from the one with most examples, and
  among equals from the last.
  """
  rows: dict[tuple[str, ...], dict[str, Row]] = {}
  for run in runs:
    for evaluation in latest_evaluations(run):
      dataset, kind = split_task(evaluation['task'])
      key = (
          dataset,
          kind,
          evaluation['split'],
          evaluation['split_rule'],
          evaluation['split_fingerprint'],
      )
      table = rows.setdefault(key, {})
      for row in _rows(run, evaluation):
        old = table.get(row.model)
        if old is None or row.num_examples >= old.num_examples:
          table[row.model] = row
  return [
      Table(
          dataset=key[0],
          kind=key[1],
          split=key[2],
          split_rule=key[3],
          split_fingerprint=key[4],
          rows=tuple(sorted(table.values(), key=_row_order)),
      )
      for key, table in sorted(rows.items(), key=_table_order)
  ]


def _table_order(item: tuple[tuple[str, ...], Any]) -> tuple[Any, ...]:
  key, _ = item
  return key[0], key[1] != 'next item', key[1:]


def _row_order(row: Row) -> tuple[int, str]:
  known = row.model in _ORDER
  return _ORDER.index(row.model) if known else -1, row.model


def _rows(run: Run, evaluation: dict[str, Any]) -> list[Row]:
  return [
      Row(
          model=model,
          metrics={
              name: Estimate(mean=value['mean'], stderr=value.get('stderr'))
              for name, value in metrics.items()
              if name not in _NO_COLUMN
          },
          run=run.name,
          task=evaluation['task'],
          step=evaluation['step'],
          num_examples=evaluation['num_examples'],
          protocol=evaluation.get('protocol', ''),
      )
      for model, metrics in evaluation['models'].items()
  ]
