"""The data card's charts, as inline SVG that takes its ink from the page."""

from collections.abc import Callable, Mapping, Sequence
import io
import re
import warnings

import matplotlib

matplotlib.use('svg')

# pylint: disable=g-import-not-at-top,wrong-import-position
import matplotlib.axes
import matplotlib.axis
import matplotlib.dates
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from data_prep import tallies

# Replaced by the page's own colours, so that light and dark both work.
_INK = '#010203'
_COLOURS = ('#4269d0', '#e8743b', '#3ca951')
_STYLE = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'user_llm',
    'font.size': 10,
    # A '$' in a category is no formula.
    'text.parse_math': False,
    'text.color': _INK,
    'axes.edgecolor': _INK,
    'axes.labelcolor': _INK,
    'xtick.color': _INK,
    'ytick.color': _INK,
    'grid.color': _INK,
    'grid.alpha': 0.12,
    'axes.grid': True,
    'axes.grid.axis': 'y',
    'axes.axisbelow': True,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.spines.left': False,
    'ytick.major.size': 0,
    'ytick.minor.size': 0,
    'figure.facecolor': 'none',
    'axes.facecolor': 'none',
    'legend.frameon': False,
}
_SIZE_INCHES = (4.7, 2.7)
# Of the logarithmic axes that are less than this from end to end.
_NARROW = 100
_BINS = 40
_POINTS = 200
_MOST_BARS = 12
# Stars and grades stand side by side; longer names lie one under another.
_MOST_UPRIGHT_BARS = 21
_SHORT_CHARACTERS = 4
_LABEL_CHARACTERS = 26


def _draw(draw: Callable[[matplotlib.axes.Axes], None]) -> str:
  """Makes a figure of one plot; returns '<svg ...>...</svg>'."""
  with matplotlib.rc_context(), warnings.catch_warnings():
    # The user's own matplotlibrc shall not change a file's bytes, nor shall a
    # script that matplotlib's font lacks, since the browser draws the text.
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(_STYLE)
    warnings.filterwarnings('ignore', message='Glyph')
    figure = matplotlib.figure.Figure(_SIZE_INCHES, layout='constrained')
    draw(figure.subplots())
    buffer = io.StringIO()
    figure.savefig(
        buffer, format='svg', metadata={'Date': None, 'Creator': None}
    )
  svg = buffer.getvalue()
  svg = svg[svg.index('<svg') :].replace(_INK, 'currentColor')
  # The width comes from the page; the view box keeps the proportions.
  tag, rest = svg.split('>', 1)
  return re.sub(r' (width|height)="[^"]*"', '', tag) + '>' + rest


def _count(value: float, _: int | None = None) -> str:
  """1500 -> '1.5k'."""
  for size, letter in ((1e9, 'G'), (1e6, 'M'), (1e3, 'k')):
    if value >= size:
      return f'{value / size:g}{letter}'
  return f'{value:g}'


def _logarithmic(axis: matplotlib.axis.Axis) -> None:
  """After the data is drawn: a narrow axis has ticks between its decades."""
  getattr(axis.axes, f'set_{axis.axis_name}scale')('log')
  low, high = axis.get_data_interval()
  narrow = high < _NARROW * max(low, 1)
  axis.set_major_locator(
      matplotlib.ticker.LogLocator(subs=(1, 2, 5) if narrow else (1,))
  )
  axis.set_major_formatter(_count)
  axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def history_lengths(lengths: np.ndarray) -> str:
  """Users by their number of events.

  Args:
    lengths: int64[longest + 1], users with so many events.
  """
  (present,) = np.nonzero(lengths)
  edges = np.geomspace(present[0], present[-1] + 1, _BINS + 1).round()
  edges = np.unique(edges.astype(np.int64))
  users = np.add.reduceat(lengths, edges[:-1])

  def draw(ax: matplotlib.axes.Axes) -> None:
    ax.stairs(users, edges, fill=True, color=_COLOURS[0])
    _logarithmic(ax.xaxis)
    _logarithmic(ax.yaxis)
    ax.set_ylim(bottom=0.7)
    ax.set_xlabel('events')
    ax.set_ylabel('users')

  return _draw(draw)


def popularity(counts: np.ndarray) -> str:
  """Events of the items, the most popular first.

  Args:
    counts: int64[I], events of each item, in any order.
  """
  falling = -np.sort(-counts)
  ranks = np.geomspace(1, len(falling), _POINTS).round().astype(np.int64)
  ranks = np.unique(ranks)

  def draw(ax: matplotlib.axes.Axes) -> None:
    ax.plot(ranks, falling[ranks - 1], color=_COLOURS[0], lw=2)
    _logarithmic(ax.xaxis)
    _logarithmic(ax.yaxis)
    ax.set_xlabel('item, by rank')
    ax.set_ylabel('events')

  return _draw(draw)


def times(days: np.ndarray) -> tuple[str, str]:
  """Events by day, month or year, whichever gives a readable number of bars.

  Args:
    days: int64[...], events on each day from 1970 on.

  Returns:
    The chart, and in words the bar with most events.
  """
  (present,) = np.nonzero(days)
  num_days = present[-1] - present[0] + 1
  unit = 'day' if num_days <= 92 else 'month' if num_days <= 7300 else 'year'
  dates = np.arange(present[0], present[-1] + 1).astype('datetime64[D]')
  units = dates.astype(f'datetime64[{unit[0].upper()}]')
  bars, place = np.unique(units, return_inverse=True)
  events = np.bincount(place, days[present[0] : present[-1] + 1])
  edges = np.append(bars, bars[-1] + 1).astype('datetime64[D]')

  def draw(ax: matplotlib.axes.Axes) -> None:
    ax.stairs(events, edges, fill=True, color=_COLOURS[0])
    locator = matplotlib.dates.AutoDateLocator(minticks=3, maxticks=8)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(matplotlib.dates.ConciseDateFormatter(locator))
    ax.yaxis.set_major_formatter(_count)
    ax.set_ylabel(f'events a {unit}')

  busiest = f'busiest {unit}: {bars[events.argmax()]}'
  return _draw(draw), busiest


def text_lengths(texts: Mapping[str, np.ndarray]) -> str:
  """Events by the length of each of their texts.

  Args:
    texts: Of each, int64[len(TEXT_EDGES) + 1]; see `tallies.Tallies`.
  """
  edges = tallies.TEXT_EDGES
  # What is longer than the last edge has a bin of its own.
  edges = np.append(edges, round(edges[-1] ** 2 / edges[-2]))
  longest = max(np.flatnonzero(counts)[-1] for counts in texts.values())

  def draw(ax: matplotlib.axes.Axes) -> None:
    for i, (name, counts) in enumerate(texts.items()):
      ax.stairs(
          counts[1:], edges, lw=1.6, label=name,
          color=_COLOURS[i % len(_COLOURS)],
      )
    _logarithmic(ax.xaxis)
    ax.set_xlim(1, max(edges[longest], 10))
    ax.yaxis.set_major_formatter(_count)
    ax.set_xlabel('characters')
    ax.set_ylabel('events')
    ax.legend(fontsize=9.5)

  return _draw(draw)


def values(names: Sequence[str], counts: np.ndarray, unit: str) -> str:
  """Bars of values in the order given, upright if their names are short.

  Args:
    names: At most `most_bars(names)`.
    counts: int64[len(names)].
    unit: What is counted.
  """
  upright = _are_short(names)

  def draw(ax: matplotlib.axes.Axes) -> None:
    places = np.arange(len(names))
    if upright:
      ax.bar(places, counts, 0.8, color=_COLOURS[0])
      ax.set_xticks(places, names)
      ax.tick_params(axis='x', length=0)
      ax.yaxis.set_major_formatter(_count)
      ax.set_ylabel(unit)
      return
    ax.barh(places, counts, 0.75, color=_COLOURS[0])
    ax.set_yticks(places, [_shortened(name) for name in names])
    ax.invert_yaxis()
    ax.grid(axis='y', visible=False)
    ax.grid(axis='x', visible=True)
    ax.xaxis.set_major_formatter(_count)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    ax.set_xlabel(unit)

  return _draw(draw)


def most_bars(names: Sequence[str]) -> int:
  """How many of these values one chart shows."""
  return _MOST_UPRIGHT_BARS if _are_short(names) else _MOST_BARS


def _are_short(names: Sequence[str]) -> bool:
  return len(names) <= _MOST_UPRIGHT_BARS and all(
      len(name) <= _SHORT_CHARACTERS for name in names
  )


def _shortened(name: str) -> str:
  if len(name) <= _LABEL_CHARACTERS:
    return name
  return name[: _LABEL_CHARACTERS - 1] + '…'
