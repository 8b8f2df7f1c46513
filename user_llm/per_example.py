"""What each example gave to an evaluation: `eval/<task>/<step>.npz`.

The JSON file beside it has the means. This has what they are means of, so that
two models can be compared example by example, and looked at in slices.

Shapes: N examples.
"""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import pathlib
import zipfile
import zlib

import numpy as np

from user_llm import atomic
from user_llm import metrics as metrics_lib

# Facts that say which example it is, as far as an evaluation has them.
_IDENTITY = ('user', 'label_position', 'label_item', 'window', 'window_tokens')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PerExample:
  """Facts and values of N examples, in their order.

  Attributes:
    facts: About the examples, [N] each. Of a user's event: see
      `data.example_facts`. Of a text: `window` and `window_tokens`.
    values: By row and name, [N] each: a metric's, or 'rank/<policy>', from
      which `metrics.expand` has the metrics of a ranking.
  """

  facts: Mapping[str, np.ndarray]
  values: Mapping[str, Mapping[str, np.ndarray]]

  def __post_init__(self):
    sizes = {name: len(fact) for name, fact in self.facts.items()}
    sizes |= {
        f'{row}/{name}': len(value)
        for row, values in self.values.items()
        for name, value in values.items()
    }
    if len(set(sizes.values())) > 1:
      raise ValueError(f'Not of as many examples each: {sizes}.')

  def __len__(self) -> int:
    """N."""
    return len(next(iter(self.facts.values()), ()))

  @functools.cached_property
  def identity(self) -> str:
    """A digest of which examples these are, in which order."""
    digest = hashlib.sha256()
    for name in _IDENTITY:
      if name in self.facts:
        digest.update(name.encode())
        digest.update(self.facts[name].astype('<i8').tobytes())
    return digest.hexdigest()[:16]

  def metrics(self, row: str) -> dict[str, np.ndarray]:
    """f64[N] by metric of one row; empty where the row has no values."""
    return metrics_lib.expand(self.values.get(row, {}))

  def write(self, path: pathlib.Path) -> None:
    """Writes an .npz without pickles, whole or not at all."""
    arrays = {f'facts/{name}': fact for name, fact in self.facts.items()}
    arrays |= {
        f'values/{row}/{name}': value
        for row, values in self.values.items()
        for name, value in values.items()
    }
    with atomic.write(path) as file:
      np.savez_compressed(file, allow_pickle=False, **arrays)


def read(path: pathlib.Path) -> PerExample:
  """Reads what `PerExample.write` wrote.

  Raises:
    ValueError: The file is broken, or has other things in it.
  """
  facts: dict[str, np.ndarray] = {}
  values: dict[str, dict[str, np.ndarray]] = {}
  try:
    with np.load(path, allow_pickle=False) as arrays:
      for key in arrays.files:
        kind, _, rest = key.partition('/')
        row, _, name = rest.partition('/')
        if kind == 'facts':
          facts[rest] = arrays[key]
        elif kind == 'values' and name:
          values.setdefault(row, {})[name] = arrays[key]
        else:
          raise ValueError(f'unknown array {key!r}')
    return PerExample(facts=facts, values=values)
  except (
      ValueError, OSError, EOFError, KeyError, AttributeError, TypeError,
      RuntimeError, zipfile.BadZipFile, zlib.error,
  ) as error:
    raise ValueError(
        f'{path} is broken ({error}): evaluate again, or delete it to do '
        'without significance and slices.'
    ) from error
