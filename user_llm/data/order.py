"""Which example is read when: a pure function of (seed, position).

The examples of a task are numbered 0 .. N - 1. Epoch e reads them in the order
of a permutation that depends on (seed, e) only, epochs follow one another
without a gap, and step k of a run takes the k-th slice of this endless
sequence. So a run resumes anywhere, on any number of hosts, with no state.
"""

from collections.abc import Iterator
import dataclasses
import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
  bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
  order = np.random.Generator(bits).permutation(num_examples)
  order.setflags(write=False)  # It is shared by the cache.
  return order


def example_indices(
    num_examples: int, seed: int, start: int, count: int
) -> np.ndarray:
  """int64[count]: entries start .. start + count - 1 of the endless order.

  Args:
    num_examples: N, examples of an epoch.
    seed: Of the permutations; not negative.
    start: First position; position p lies in epoch p // N.
    count: How many.
  """
  parts = []
  while count > 0:
    epoch, offset = divmod(start, num_examples)
    part = _permutation(num_examples, seed, epoch)[offset : offset + count]
    parts.append(part)
    start += len(part)
    count -= len(part)
  return np.concatenate(parts) if parts else np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostOrder:
  """What one host reads of the global batches of a run.

  Attributes:
    batch_size: Rows of a global batch.
    seed: Of the permutations; None reads 0 .. N - 1 once, in order.
    start_step: First step to read.
    host: This host; it takes the rows host * B / H .. (host + 1) * B / H - 1.
    num_hosts: H; divides the batch size.
  """

  batch_size: int
  seed: int | None
  start_step: int = 0
  host: int = 0
  num_hosts: int = 1

  def __post_init__(self):
    if self.batch_size <= 0 or self.batch_size % self.num_hosts:
      raise ValueError(
          f'BATCH_SIZE is {self.batch_size}; it must be a positive multiple '
          f'of the number of hosts, {self.num_hosts}.'
      )
    if not 0 <= self.host < self.num_hosts:
      raise ValueError(f'host {self.host} is not in 0..{self.num_hosts - 1}.')
    if self.seed is not None and self.seed < 0:
      raise ValueError(f'SEED is {self.seed}; it must not be negative.')

  @property
  def rows(self) -> int:
    """Rows of a batch that one host reads."""
    return self.batch_size // self.num_hosts

  def blocks(self, num_examples: int) -> Iterator[np.ndarray]:
    """Yields int64[rows] example numbers a step; without end if seeded."""
    step = self.start_step
    while self.seed is not None or step * self.batch_size < num_examples:
      start = step * self.batch_size + self.host * self.rows
      if self.seed is None:
        stop = min(start + self.rows, num_examples)
        yield np.arange(start, max(start, stop), dtype=np.int64)
      else:
        yield example_indices(num_examples, self.seed, start, self.rows)
      step += 1
