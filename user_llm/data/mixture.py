"""Training batches of several tasks at once."""

from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

import numpy as np

from user_llm.data import batching
from user_llm.data import schema as schema_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
  """Rows of several datasets in every batch, in fixed shares.

  Example: datasets (a, b), shares (2, 1), batch of 6: rows a0 a1 b0 a2 a3 b1.

  Attributes:
    datasets: `pipeline.Dataset`s of one prepared dataset and split rule, whose
      batches have the same shapes; where no text length is given, it is that of
      the longest.
    shares: Rows that each gives of every sum(shares) rows.
  """

  datasets: tuple[Any, ...]
  shares: tuple[int, ...]

  def __post_init__(self):
    if not self.datasets or len(self.datasets) != len(self.shares):
      raise ValueError(
          f'A mixture has {len(self.datasets)} datasets and '
          f'{len(self.shares)} shares; give one share for each dataset.'
      )
    if any(not isinstance(s, int) or s <= 0 for s in self.shares):
      raise ValueError(
          f'SHARES are {self.shares}; each must be a positive whole number.'
      )
    for name in ('fingerprint', 'schema'):
      if any(getattr(d, name) != getattr(self, name) for d in self.datasets):
        raise ValueError(
            f'The datasets of a mixture differ in their {name}; give all the '
            'same DATA_DIR, SPLIT_RULE and MODALITIES.'
        )

  @property
  def name(self) -> str:
    return '+'.join(d.name for d in self.datasets)

  @property
  def schema(self) -> schema_lib.EventSchema:
    return self.datasets[0].schema

  @property
  def catalogue(self) -> tuple[schema_lib.CatalogueItem, ...]:
    return self.datasets[0].catalogue

  @property
  def history_length(self) -> int:
    return self.datasets[0].history_length

  @property
  def split_rule(self) -> schema_lib.SplitRule:
    return self.datasets[0].split_rule

  @property
  def fingerprint(self) -> str:
    return self.datasets[0].fingerprint

  @property
  def identity(self) -> dict[str, str]:
    merged = {}
    for dataset in self.datasets:
      merged |= dataset.identity
    return merged

  @functools.cached_property
  def _sized(self) -> tuple[Any, ...]:
    """The datasets, all with a text length."""
    if not all(d.has_text for d in self.datasets):
      return self.datasets
    longest = max(d.num_tokens('train') for d in self.datasets)
    return tuple(
        d if d.text_length else dataclasses.replace(d, text_length=longest)
        for d in self.datasets
    )

  def num_examples(self, split: str) -> int:
    """Examples of all datasets together."""
    return sum(d.num_examples(split) for d in self._sized)

  def _check_size(self, batch_size: int, num_hosts: int) -> None:
    if batch_size % (sum(self.shares) * num_hosts):
      raise ValueError(
          f'BATCH_SIZE is {batch_size}; with shares {self.shares} and '
          f'{num_hosts} hosts it must be a multiple of '
          f'{sum(self.shares) * num_hosts}.'
      )

  def batch_spec(
      self, split: str, batch_size: int
  ) -> dict[str, batching.ArraySpec]:
    """Shape and dtype of each entry of a global batch.

    Raises:
      ValueError: The datasets' batches do not have the same entries.
    """
    self._check_size(batch_size, 1)
    specs = [d.batch_spec(split, batch_size) for d in self._sized]
    for dataset, spec in zip(self.datasets, specs):
      for key in spec.keys() | specs[0].keys():
        if spec.get(key) != specs[0].get(key):
          raise ValueError(
              f'{key!r} is {specs[0].get(key)} in {self.datasets[0].name!r} '
              f'and {spec.get(key)} in {dataset.name!r}: a mixture needs one '
              'HISTORY_LENGTH, TARGETS_PER_EXAMPLE and TEXT_LENGTH for all.'
          )
    return specs[0]

  def train_batches(
      self,
      *,
      batch_size: int,
      seed: int,
      start_step: int = 0,
      host: int = 0,
      num_hosts: int = 1,
  ) -> Iterator[batching.Batch]:
    """Yields this host's rows; see `pipeline.Dataset.train_batches`."""
    self._check_size(batch_size, num_hosts)
    groups = batch_size // sum(self.shares)
    iterators = [
        dataset.train_batches(
            batch_size=groups * share,
            seed=_own_seed(seed, number),
            start_step=start_step,
            host=host,
            num_hosts=num_hosts,
        )
        for number, (dataset, share) in enumerate(
            zip(self._sized, self.shares)
        )
    ]
    groups //= num_hosts
    for parts in zip(*iterators):
      yield {
          key: self._interleave([part[key] for part in parts], groups)
          for key in parts[0]
      }

  def _interleave(self, parts: list[np.ndarray], groups: int) -> np.ndarray:
    shape = parts[0].shape[1:]
    by_group = [
        part.reshape(groups, share, *shape)
        for part, share in zip(parts, self.shares)
    ]
    return np.concatenate(by_group, axis=1).reshape(-1, *shape)


def _own_seed(seed: int, number: int) -> int:
  """Of a dataset's order: with one for all a batch would repeat its users."""
  if not number:
    return seed
  sequence = np.random.SeedSequence(seed, spawn_key=(number,))
  return int(sequence.generate_state(1)[0])
