"""The item softmax of a training step against all items and against some.

    python benchmarks/sampled_softmax.py

Loss and gradients of 8 rows of 200 events of width 64, in turns, medians. The
full one grows with the catalogue; what is left of the sampled one's growth is
the gradient of the table, which is as large as the table.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from user_llm.data import item_features
from user_llm.objectives import softmax

_ROWS, _LENGTH, _WIDTH = 8, 200, 64
_TURNS = 5


def _step(candidates, num_items):
  rng = np.random.default_rng(0)
  h = rng.normal(size=(_ROWS, _LENGTH, _WIDTH)).astype(np.float32)
  table = rng.normal(size=(num_items, _WIDTH)).astype(np.float32)
  targets = rng.integers(1, num_items, (_ROWS, _LENGTH)).astype(np.int32)

  @jax.jit
  def grads(h, table, rng):
    total = lambda *x: candidates.total(*x, targets, num_items, rng)
    return jax.value_and_grad(total, argnums=(0, 1))(h, table)

  return lambda i: jax.block_until_ready(grads(h, table, jax.random.key(i)))


def _seconds(run, i):
  start = time.perf_counter()
  run(i)
  return time.perf_counter() - start


def main() -> None:
  argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
  ).parse_args()
  print('| items | full, ms | 1,024 negatives, ms | full / sampled |')
  print('|---|---|---|---|')
  for num_items in (5_000, 50_000, 500_000):
    counts = np.random.default_rng(1).integers(0, 100, num_items)
    features = item_features.ItemFeatures(
        labels=np.zeros((num_items, 0), np.int32), num_labels=1, counts=counts
    )
    runs = [
        _step(softmax.FullSoftmax(), num_items),
        _step(softmax.SampledSoftmax(features=features), num_items),
    ]
    for run in runs:
      run(0)
    turns = [[_seconds(run, i) for run in runs] for i in range(_TURNS)]
    full, some = (1e3 * statistics.median(t) for t in zip(*turns))
    ratio = statistics.median(a / b for a, b in turns)
    print(f'| {num_items:,} | {full:,.0f} | {some:,.0f} | {ratio:.1f} |')


if __name__ == '__main__':
  main()
