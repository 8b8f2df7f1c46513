"""Whether a row is better than another: paired bootstrap over the examples.

Shapes: N examples, M differences, R resamples.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from user_llm.report import results
from user_llm.report import rows as rows_lib

RESAMPLES = 10_000
_SEED = 0
_CONFIDENCE = 0.95
# Of one chunk's counts.
_CHUNK_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
  """A row's metric less the reference's, over the same examples.

  Attributes:
    mean: Over the examples.
    low: The 95 % interval: the quantiles 0.025 ...
    high: ... and 0.975 of the resampled means.
    p_value: Two-sided: twice the share of the resampled means that lie on the
      other side of zero or on it, of no fewer than one. Not corrected for how
      many comparisons a table makes.
  """

  mean: float
  low: float
  high: float
  p_value: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """All rows of a table against one of them.

  Attributes:
    reference: That row.
    differences: By row, then metric.
    refusals: Why a row is not compared.
  """

  reference: rows_lib.Row
  differences: Mapping[rows_lib.Row, Mapping[str, Difference]]
  refusals: Mapping[rows_lib.Row, str]


def bootstrap_means(values_NM: np.ndarray) -> np.ndarray:
  """f64[R, M]: means of examples drawn with replacement, the same for all M.

  R is `RESAMPLES`, and the seed is fixed: the same values give the same means.
  """
  rng = np.random.default_rng(_SEED)
  num = len(values_NM)
  size = max(1, _CHUNK_BYTES // (8 * num))
  parts = []
  for start in range(0, RESAMPLES, size):
    rows = min(size, RESAMPLES - start)
    drawn = rng.integers(num, size=(rows, num))
    drawn += num * np.arange(rows)[:, None]
    counts_RN = np.bincount(drawn.ravel(), minlength=rows * num)
    parts.append(counts_RN.reshape(rows, num) @ values_NM / num)
  return np.concatenate(parts)


def differences(values_NM: np.ndarray) -> list[Difference]:
  """Of M arrays of paired differences.

  Example: differences that are all the same, c > 0: mean, low and high are c,
  and p_value is 2 / RESAMPLES, the least there is.
  """
  means_RM = bootstrap_means(values_NM)
  # Zero but for rounding is zero, which counts on both sides.
  means_RM[np.abs(means_RM) < 1e-12] = 0
  tail = (1 - _CONFIDENCE) / 2
  out = []
  for values_N, means_R in zip(values_NM.T, means_RM.T):
    sides = (np.sum(means_R <= 0), np.sum(means_R >= 0))
    low, high = np.quantile(means_R, [tail, 1 - tail])
    out.append(
        Difference(
            mean=float(values_N.mean()),
            low=float(low),
            high=float(high),
            p_value=min(1.0, 2 * max(1, int(min(sides))) / RESAMPLES),
        )
    )
  return out


def compare(table: results.Table, against: str | None) -> Comparison | None:
  """Compares all rows with one.

  Args:
    table: Of the rows.
    against: What `matches` takes; None: the encoder's head, or else the best
      floor; of several the one that has its examples in common with most.

  Returns:
    None where the table has no such row, or where no row but it could be
    compared because no evaluation kept its examples.
  """
  reference = (
      _default(table) if against is None else _chosen(table, against)
  )
  if reference is None:
    return None
  others = [row for row in table.rows if row is not reference]
  refusals = {
      row: reason for row in others if (reason := _refusal(row, reference))
  }
  pairs = [
      (row, metric)
      for row in others
      if row not in refusals
      for metric in row.values
      if metric in reference.values
  ]
  found: dict[rows_lib.Row, dict[str, Difference]] = {}
  if pairs:
    values_NM = np.stack(
        [row.values[m] - reference.values[m] for row, m in pairs], axis=1
    )
    for (row, metric), difference in zip(pairs, differences(values_NM)):
      found.setdefault(row, {})[metric] = difference
  return Comparison(
      reference=reference, differences=found, refusals=refusals
  )


def _refusal(row: rows_lib.Row, reference: rows_lib.Row) -> str:
  if not reference.values or not row.values:
    return 'no file has their examples'
  if row.per_example.identity == reference.per_example.identity:
    return ''
  if row.num_examples != reference.num_examples:
    return (
        f'the examples differ: {row.num_examples:,}, and '
        f'{reference.num_examples:,} of the reference'
    )
  return f'the {row.num_examples:,} examples are not those of the reference'


def _default(table: results.Table) -> rows_lib.Row | None:
  """See `compare`."""
  found = table.by_quality([
      row
      for row in table.rows
      if row.is_floor or row.model == rows_lib.ENCODER_HEAD
  ])

  def preference(row: rows_lib.Row) -> tuple[int, bool]:
    shared = sum(not _refusal(other, row) for other in table.rows)
    return shared, row.model == rows_lib.ENCODER_HEAD

  # Of equals the first, which is the best.
  return max(found, key=preference, default=None)


def matches(row: rows_lib.Row, name: str) -> bool:
  """Whether a row is meant: by its model, its run, or 'model/run'."""
  runs = {row.run, *row.runs}
  if row.is_floor or row.is_ceiling:
    return name == row.model
  return (
      name == row.model or name in runs
      or name in {f'{row.model}/{run}' for run in runs}
  )


def _chosen(table: results.Table, against: str) -> rows_lib.Row | None:
  """The row that is meant; of floors that of most examples."""
  found = [row for row in table.rows if matches(row, against)]
  strong = [row for row in found if not row.is_floor]
  if len(strong) > 1:
    names = ', '.join(f'{row.model}/{row.run}' for row in strong)
    raise ValueError(
        f'--against={against}: {table.title} has several such rows. Choose one '
        f'of {names}.'
    )
  return max(found, key=lambda row: row.num_examples, default=None)


def compare_all(
    tables: Sequence[results.Table], against: str | None
) -> list[Comparison | None]:
  """`compare` of each table.

  Raises:
    ValueError: No table has the row `against`, or one has several.
  """
  known = {
      name
      for table in tables
      for row in table.rows
      for name in ((row.model, row.run) if row.is_model else (row.model,))
  }
  if against is not None and not any(
      matches(row, against) for table in tables for row in table.rows
  ):
    raise ValueError(
        f'--against={against}: no table has this row. There are '
        f'{", ".join(sorted(known))}.'
    )
  return [compare(table, against) for table in tables]
