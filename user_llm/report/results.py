"""Puts evaluations side by side: one table a question, one row a model."""

from collections.abc import Sequence
import dataclasses

from user_llm.report import rows as rows_lib
from user_llm.report import runs as runs_lib

_UNKNOWN = ''
_ORDER = (
    *rows_lib.TRAINED, _UNKNOWN, *rows_lib.FLOORS, *rows_lib.CEILINGS
)
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
LOWER_IS_BETTER = ('bits_per_byte', 'bits_added', 'answer_nats')
# Neither more nor less of them is better.
_NEUTRAL = ('prompt_events', 'prompt_truncated')
_METRIC_ORDER = (
    'recall@1', 'recall@5', 'recall@10', 'ndcg@10', 'mrr@10', 'accuracy',
    'rouge1', 'rouge2', 'rougeL', 'exact_match',
    'bits_per_byte', 'bits_added', 'answer_nats', *_NEUTRAL,
)
# The first that a table has is the one to look at.
_LEADING = ('recall@10', 'accuracy', 'rougeL', 'bits_per_byte')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Table:
  """All models measured on the same question over the same split."""

  dataset: str
  kind: str  # 'next item', 'favourite genre', or the task's name.
  split: str
  split_rule: str
  split_fingerprint: str
  rows: tuple[rows_lib.Row, ...]

  @property
  def title(self) -> str:
    return f'{self.dataset}: {self.kind}'

  @property
  def policies(self) -> tuple[str, ...]:
    """'unseen' and 'all', and '' for metrics without a policy."""
    found = {m.partition('/')[2] for row in self.rows for m in row.metrics}
    return tuple(p for p in ('unseen', 'all', '') if p in found)

  def metrics(self, policy: str) -> tuple[str, ...]:
    """Keys of the metrics of a policy, in reading order."""
    names = {
        name
        for row in self.rows
        for name, _, its_policy in (m.partition('/') for m in row.metrics)
        if its_policy == policy
    }
    known = [m for m in _METRIC_ORDER if m in names]
    return tuple(
        f'{name}/{policy}' if policy else name
        for name in (*known, *sorted(names - set(known)))
    )

  @property
  def leading(self) -> str:
    """The metric to look at first."""
    metrics = self.metrics(self.policies[0])
    by_name = {metric.split('/')[0]: metric for metric in metrics}
    return next((by_name[m] for m in _LEADING if m in by_name), metrics[0])

  def best(self, metric: str) -> float | None:
    """The best mean of a model that is no ceiling."""
    name = metric.split('/')[0]
    means = [
        row.metrics[metric].mean
        for row in self.rows
        if metric in row.metrics and not row.is_ceiling
    ]
    if name in _NEUTRAL:
      return None
    best = min if name in LOWER_IS_BETTER else max
    return best(means, default=None)

  def is_best(self, row: rows_lib.Row, metric: str) -> bool:
    """Whether no other model but the ceilings is better."""
    return (
        not row.is_ceiling
        and metric in row.metrics
        and row.metrics[metric].mean == self.best(metric)
    )

  def by_quality(self, rows: Sequence[rows_lib.Row]) -> list[rows_lib.Row]:
    """Those that have the leading metric, the best first."""
    metric = self.leading
    sign = 1 if metric.split('/')[0] in LOWER_IS_BETTER else -1
    return sorted(
        (row for row in rows if metric in row.metrics),
        key=lambda row: sign * row.metrics[metric].mean,
    )

  @property
  def protocols(self) -> tuple[str, ...]:
    """How the rows' numbers are to be read."""
    return tuple(sorted({row.protocol for row in self.rows} - {''}))

  @property
  def has_mixed_counts(self) -> bool:
    return len({row.num_examples for row in self.rows}) > 1

  @property
  def has_seeds(self) -> bool:
    return any(row.has_seeds for row in self.rows)


def split_task(task: str) -> tuple[str, str]:
  """'ml_1m_next_item' -> ('ml_1m', 'next item')."""
  for suffix, kind in _TASK_KINDS.items():
    if task.endswith(f'_{suffix}'):
      return task.removesuffix(f'_{suffix}'), kind
  return task, 'accuracy'


def make_tables(runs: Sequence[runs_lib.Run]) -> list[Table]:
  """Joins the runs' evaluations: one table a dataset, question and split.

  The encoder's own head and the text model answer the same question about the
  same users, so they share a table if their split fingerprints agree. Runs of
  one configuration and several seeds share a row; floors and ceilings that are
  the same in several runs do too. No row is lost.
  """
  found: dict[tuple[str, ...], list[rows_lib.Row]] = {}
  for run in runs:
    for evaluation in run.latest:
      key = (
          *split_task(evaluation['task']),
          evaluation['split'],
          evaluation['split_rule'],
          evaluation['split_fingerprint'],
      )
      found.setdefault(key, []).extend(rows_lib.rows_of(run, evaluation))
  return [
      Table(
          dataset=key[0],
          kind=key[1],
          split=key[2],
          split_rule=key[3],
          split_fingerprint=key[4],
          rows=rows_lib.told_apart(
              sorted(rows_lib.joined(rows), key=_row_order)
          ),
      )
      for key, rows in sorted(found.items(), key=_table_order)
  ]


def _table_order(item: tuple[tuple[str, ...], object]) -> tuple[object, ...]:
  key, _ = item
  return key[0], key[1] != 'next item', key[1:]


def _row_order(row: rows_lib.Row) -> tuple[int, str]:
  known = row.model if row.model in _ORDER else _UNKNOWN
  return _ORDER.index(known), row.model
