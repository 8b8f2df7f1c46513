"""What a request costs, by model and length of history: rows, ratios, files."""

from collections.abc import Mapping, Sequence
import csv
import dataclasses
import io
import json
import pathlib
from typing import Any

from rich import box
from rich import table as rich_table

from user_llm import atomic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
  """Seconds of several calls; `cpu_secs` is the median over all threads."""

  median_secs: float
  fastest_secs: float
  slowest_secs: float
  cpu_secs: float
  calls: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """One request with one model.

  Attributes:
    model: Its name.
    events: Of the history.
    events_held: Those that the model sees; fewer where a context is full.
    llm_tokens: Positions that the language model reads before it writes.
    prefill_flops: Of all matrix products up to the first token's logits,
      encoder and resampler included.
    masked_flops: Of them, those of the decoder's scores and values of later
      tokens, which are masked: a kernel that skips these would save as many.
    request_flops: With all new tokens, by their number.
    step_params: Parameters that one decode step reads.
    step_param_bytes: Their size.
    kv_bytes: Keys and values that stay for the decode steps, of the prompt and
      the user.
    prefill: Measured.
    request: Measured, by the number of new tokens.
  """

  model: str
  events: int
  events_held: int
  llm_tokens: int
  prefill_flops: float
  masked_flops: float
  request_flops: Mapping[int, float]
  step_params: int
  step_param_bytes: int
  kv_bytes: int
  prefill: Timing
  request: Mapping[int, Timing]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """Costs of a text prompt and of models beside it.

  Attributes:
    text: Of the text prompt, by events.
    others: Of all other models.
    facts: What was measured, on what.
  """

  text: Mapping[int, Cost]
  others: Sequence[Cost]
  facts: Mapping[str, Any]

  @property
  def costs(self) -> list[Cost]:
    """All, by events."""
    of = {n: [c for c in self.others if c.events == n] for n in self.text}
    return [c for n, text in self.text.items() for c in (text, *of[n])]


def quantities(cost: Cost) -> dict[str, float]:
  """What is compared, in reading order."""
  return {
      'LLM tokens': cost.llm_tokens,
      'prefill FLOPs': cost.prefill_flops,
      'prefill FLOPs, unmasked': cost.prefill_flops - cost.masked_flops,
      **{
          f'request FLOPs, {n} new': flops
          for n, flops in cost.request_flops.items()
      },
      'KV cache': cost.kv_bytes,
      'prefill time': cost.prefill.median_secs,
      **{
          f'request time, {n} new': timing.median_secs
          for n, timing in cost.request.items()
      },
  }


def ratios(text: Cost, other: Cost) -> dict[str, float]:
  """How many times as much the text prompt of as many events costs."""
  mine = quantities(other)
  return {name: q / mine[name] for name, q in quantities(text).items()}


def cost_table(comparison: Comparison) -> rich_table.Table:
  """The costs; one line a model and length of history."""
  some = comparison.costs[0]
  table = _table('What one request costs', comparison.facts['about'])
  for name in (
      'LLM tokens', 'prefill GFLOP',
      *(f'GFLOP, {n} new' for n in some.request_flops),
      'step reads', 'KV cache', 'prefill ms',
      *(f'ms, {n} new' for n in some.request),
  ):
    table.add_column(name, justify='right')
  for i, cost in enumerate(comparison.costs):
    is_text = cost is comparison.text[cost.events]
    if is_text and i:
      table.add_section()
    table.add_row(
        cost.model,
        told(cost),
        f'{cost.llm_tokens:,}',
        f'{cost.prefill_flops / 1e9:,.1f}',
        *(f'{flops / 1e9:,.1f}' for flops in cost.request_flops.values()),
        _size(cost.step_param_bytes),
        _size(cost.kv_bytes),
        f'{cost.prefill.median_secs * 1e3:,.0f}',
        *(f'{t.median_secs * 1e3:,.0f}' for t in cost.request.values()),
    )
  return table


def ratio_table(comparison: Comparison) -> rich_table.Table:
  """How many times as much the text prompt costs."""
  table = _table(
      'Text prompt / User-LLM',
      'unmasked: without scores and values that the causal mask hides',
  )
  for name in quantities(comparison.costs[0]):
    table.add_column(name, justify='right')
  for cost in sorted(comparison.others, key=lambda c: c.events):
    text = comparison.text[cost.events]
    table.add_row(
        cost.model,
        told(text),
        *(times(ratio) for ratio in ratios(text, cost).values()),
    )
  return table


def _table(title: str, caption: str) -> rich_table.Table:
  table = rich_table.Table(
      title=title,
      caption=caption,
      box=box.SIMPLE_HEAD,
      show_edge=False,
      title_style='bold',
  )
  table.add_column('model', no_wrap=True)
  table.add_column('events')
  return table


def told(cost: Cost) -> str:
  """'200', or '200 (75 fit)' where the context does not hold all."""
  if cost.events_held == cost.events:
    return str(cost.events)
  return f'{cost.events} ({cost.events_held} fit)'


def times(ratio: float) -> str:
  """78.125 -> '78.1x'."""
  return f'{ratio:,.0f}x' if ratio >= 100 else f'{ratio:.1f}x'


def _size(num_bytes: int) -> str:
  """1234567 -> '1.2 MB'."""
  for unit, scale in (('GB', 1e9), ('MB', 1e6), ('kB', 1e3)):
    if num_bytes >= scale:
      return f'{num_bytes / scale:,.1f} {unit}'
  return f'{num_bytes} B'


def write_files(directory: pathlib.Path, comparison: Comparison) -> None:
  """Writes cost.json, with everything, and cost.csv, a row a cost."""
  rows = []
  for cost in comparison.costs:
    row = dataclasses.asdict(cost)
    row['ratios'] = ratios(comparison.text[cost.events], cost)
    rows.append(row)
  document = {'facts': comparison.facts, 'costs': rows}
  atomic.write_text(
      directory / 'cost.json', json.dumps(document, indent=1) + '\n'
  )
  flat = [_flat(row) for row in rows]
  text = io.StringIO(newline='')
  writer = csv.DictWriter(text, flat[0])
  writer.writeheader()
  writer.writerows(flat)
  atomic.write_text(directory / 'cost.csv', text.getvalue())


def _flat(row: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'request': {8: {'calls': 3}}} -> {'request/8/calls': 3}."""
  flat = {}
  for key, value in row.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f'{prefix}{key}/')
    else:
      flat[f'{prefix}{key}'] = value
  return flat
