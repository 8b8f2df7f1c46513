"""From columns as a description names them to those of stage one."""

from collections.abc import Iterator

import polars as pl

from data_prep import table_description
from data_prep import table_files

REASON = '_reason'
# Of events, whatever unit the source has.
TICKS_PER_SEC = 10**6
# The year 2100; a wrong unit gives other years.
_LAST_SECS = 4_102_444_800


def events(
    rows: pl.DataFrame, section: table_description.Events
) -> pl.DataFrame:
  """Converts events.

  Args:
    rows: `line`, and a column a key of `section.columns()`.
    section: What they are.

  Returns:
    seq (the line), user (as it is), item, timestamp (in `TICKS_PER_SEC`),
    rating and the features, and `REASON`: why the row is bad, or null.
  """
  made = {
      'user': _text('user'),
      'item': _text('item'),
      'timestamp': _ticks(rows.schema['time'], section.time_unit),
  }
  if section.rating is not None:
    made['rating'] = _number(rows, 'rating')
  for name, feature in section.features.items():
    key = f'features.{name}'
    is_number = feature.kind == 'number'
    made[name] = _number(rows, key) if is_number else _text(key)
  has_unit = not rows.schema['time'].is_temporal()
  reasons = [
      pl.when(is_bad).then(pl.lit(reason))
      for is_bad, reason in _faults(section, has_unit)
  ]
  return rows.rename({'line': 'seq'}).with_columns(
      **made
  ).with_columns(pl.coalesce(reasons).alias(REASON)).select(
      'seq', *made, REASON
  )


def _faults(
    section: table_description.Events, has_unit: bool
) -> Iterator[tuple[pl.Expr, str]]:
  """Yields (which rows have it, what it is); the first of a row counts."""
  yield pl.col('user') == '', f'no user in {section.user!r}'
  yield pl.col('item') == '', f'no item in {section.item!r}'
  time = pl.col('timestamp')
  told = f'time of time_unit = "{section.time_unit}"' if has_unit else 'time'
  yield time.is_null(), f'no {told} in {section.time!r}'
  yield (
      ~time.is_between(0, _LAST_SECS * TICKS_PER_SEC, closed='left'),
      f'{told} before 1970 or after 2099 in {section.time!r}',
  )
  if section.rating is not None:
    rating = pl.col('rating')
    yield rating.is_null() | rating.is_nan(), f'no number in {section.rating!r}'
  for name, feature in section.features.items():
    if feature.kind == 'number':
      # One that is not given is null.
      yield pl.col(name).is_nan(), f'no number in {feature.column or name!r}'


def items(rows: pl.DataFrame, section: table_description.Items) -> pl.DataFrame:
  """Converts items: to `items.COLUMNS` and `REASON`."""
  labels = pl.lit('')
  if section.labels is not None:
    labels = _labels(section.label_separator)
  return rows.select(
      pl.col('line').alias('seq'),
      _text('item').alias('item'),
      _text('title').str.replace_all(r'\s+', ' ').alias('title'),
      labels.alias('labels'),
      pl.when(_text('item') == '')
      .then(pl.lit(f'no item in {section.item!r}'))
      .alias(REASON),
  )


def _text(key: str) -> pl.Expr:
  return (
      pl.col(key)
      .cast(pl.String)
      .fill_null('')
      .str.replace_all('\0', '', literal=True)
      .str.strip_chars(table_files.LIST_END + ' \t\r\n')
      .str.replace_all(table_files.LIST_END, ', ', literal=True)
  )


def _number(rows: pl.DataFrame, key: str) -> pl.Expr:
  """Float32: null where nothing is given, NaN where it is no number."""
  value = pl.col(key)
  if rows.schema[key] == pl.String:
    value = value.str.strip_chars().replace('', None)
  number = value.cast(pl.Float64, strict=False)
  is_good = number.is_finite().fill_null(False)
  return (
      pl.when(is_good)
      .then(number)
      .when(value.is_not_null())
      .then(float('nan'))
      .cast(pl.Float32)
  )


def _ticks(dtype: pl.DataType, unit: str) -> pl.Expr:
  """Int64 in `TICKS_PER_SEC`; what is out of range stays so, no overflow."""
  time = pl.col('time')
  if not dtype.is_temporal() and unit not in table_description.TICKS_PER_SEC:
    text = time.cast(pl.String).str.strip_chars()
    time = text.str.strptime(pl.Datetime, unit, strict=False)
    dtype = pl.Datetime()
  if dtype.is_temporal():
    secs = time.dt.epoch('s').clip(-1, _LAST_SECS)
    return secs * TICKS_PER_SEC + time.dt.epoch('us') % TICKS_PER_SEC
  if dtype == pl.String:
    time = time.str.strip_chars()
  per_sec = table_description.TICKS_PER_SEC[unit]
  up, down = max(TICKS_PER_SEC // per_sec, 1), max(per_sec // TICKS_PER_SEC, 1)
  whole, broken = (
      time.cast(number, strict=False).clip(-1, _LAST_SECS * per_sec)
      for number in (pl.Int64, pl.Float64)
  )
  # '1472688000.25'
  broken = (broken * up / down).floor().cast(pl.Int64, strict=False)
  if dtype.is_float():
    return broken
  # Nanoseconds would not be exact as floats.
  return pl.coalesce(whole * up // down, broken)


def _labels(separator: str) -> pl.Expr:
  """Labels joined by '|', which is none of their characters."""
  text = pl.col('labels').cast(pl.String).fill_null('')
  is_list = text.str.contains(table_files.LIST_END, literal=True)
  names = (
      pl.when(is_list)
      .then(text.str.split(table_files.LIST_END))
      .otherwise(text.str.split(separator))
  )
  name = pl.element()
  return names.list.eval(
      name.str.replace_all('|', '/', literal=True)
      .str.replace_all(r'\s+', ' ')
      .str.strip_chars()
      .filter(name.str.strip_chars() != '')
      .unique(maintain_order=True)
  ).list.join('|')
