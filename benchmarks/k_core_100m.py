"""Times the 5-core of 100 million edges, as `python -m data_prep` finds it.

The edges are SYNTHETIC: the user and the item of rank r have about r**(-2/3) of
them; making them is not counted. Run from the checkout:

  python benchmarks/k_core_100m.py
"""

import argparse
import pathlib
import resource
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from data_prep import cleaning  # pylint: disable=g-import-not-at-top

_USERS_AN_EDGE = 0.25
_ITEMS_AN_EDGE = 0.05
_CHUNK = 10_000_000
_GIB = 1 << 30


def generate(num_edges: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """int32 users, int32 items, int64 timestamps; some of them the same."""
  rng = np.random.default_rng(100)
  num_users = int(num_edges * _USERS_AN_EDGE)
  num_items = int(num_edges * _ITEMS_AN_EDGE)
  user = np.empty(num_edges, np.int32)
  item = np.empty(num_edges, np.int32)
  timestamp = np.empty(num_edges, np.int64)
  for start in range(0, num_edges, _CHUNK):
    part = slice(start, min(start + _CHUNK, num_edges))
    size = part.stop - part.start
    user[part] = num_users * rng.random(size) ** 3
    item[part] = num_items * rng.random(size) ** 3
    timestamp[part] = rng.integers(0, 1 << 28, size)
  # Their numbers tell nothing, as in real data.
  user = rng.permutation(num_users).astype(np.int32)[user]
  item = rng.permutation(num_items).astype(np.int32)[item]
  return user, item, timestamp


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--edges', type=int, default=100_000_000)
  parser.add_argument('--k', type=int, default=5)
  args = parser.parse_args()
  user, item, timestamp = generate(args.edges)
  config = cleaning.CleaningConfig(
      min_user_events=args.k, min_item_events=args.k
  )
  left: list[int] = []
  cpu_secs = [time.process_time()]
  start_secs = time.monotonic()
  is_copy, is_repeat = cleaning.duplicates(user, item, timestamp)
  user, item, is_repeat = (c[~is_copy] for c in (user, item, is_repeat))
  cpu_secs.append(time.process_time())
  stays = cleaning.k_core(user, item, is_repeat, config, left.append)
  cpu_secs.append(time.process_time())
  wall_secs = time.monotonic() - start_secs
  peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  duplicates_secs, core_secs = np.diff(cpu_secs)
  print(
      f'{args.edges:,} synthetic edges: {np.count_nonzero(is_copy):,} copies '
      f'found in {duplicates_secs:.1f} CPU-s; {args.k}-core of '
      f'{np.count_nonzero(stays):,} edges in {core_secs:.1f} CPU-s, '
      f'{len(left)} rounds; {wall_secs:.1f} s wall, '
      f'{peak_bytes / _GIB:.2f} GiB peak, the edges included'
  )
  print('left after each round: ' + ', '.join(f'{n:,}' for n in left))


if __name__ == '__main__':
  main()
