"""Times `python -m data_prep movielens` on 20 million rows.

The rows are SYNTHETIC, in ml-20m's layout and size; making them is not
counted. Run from the checkout:

  python benchmarks/data_prep_20m.py --work_dir /tmp/data_prep_20m
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import polars as pl

_ROWS = 20_000_263
_USERS = 138_493
_ITEMS = 27_278
_USERS_A_CHUNK = 5_000
_FIRST_TIME = 789_652_009
_LAST_TIME = 1_427_784_002
_GENRES = ('Action', 'Comedy', 'Crime', 'Drama', 'Horror', 'Romance', 'War')
_GIB = 1 << 30


def generate(directory: pathlib.Path, num_rows: int) -> None:
  """Writes movies.csv and ratings.csv, sorted by user and movie."""
  rng = np.random.default_rng(20)
  directory.mkdir(parents=True)
  movie_ids = np.sort(rng.choice(131_262, _ITEMS, replace=False)) + 1
  genres = rng.choice(_GENRES, (_ITEMS, 2))
  pl.DataFrame({
      'movieId': movie_ids,
      'title': [f'Film, The "{i}" ({1950 + i % 70})' for i in range(_ITEMS)],
      'genres': ['|'.join(sorted(set(pair))) for pair in genres.tolist()],
  }).write_csv(directory / 'movies.csv', line_terminator='\r\n')
  num_users = max(1, _USERS * num_rows // _ROWS)
  lengths = _lengths(num_rows, num_users, rng)
  popularity = (1.0 + rng.permutation(_ITEMS)) ** -0.9
  log_popularity = np.log(popularity).astype(np.float32)
  with (directory / 'ratings.csv').open('wb') as handle:
    for start in range(0, num_users, _USERS_A_CHUNK):
      users = np.arange(start, min(start + _USERS_A_CHUNK, num_users))
      frame = _ratings(users, lengths, movie_ids, log_popularity, rng)
      frame.write_csv(
          handle, include_header=start == 0, line_terminator='\r\n'
      )


def _lengths(
    num_rows: int, num_users: int, rng: np.random.Generator
) -> np.ndarray:
  """At least 20 a user, log-normal beyond, `num_rows` in all."""
  weights = rng.lognormal(0, 1.3, num_users)
  extra = (num_rows - 20 * num_users) * weights / weights.sum()
  lengths = 20 + extra.astype(np.int64)
  lengths = np.minimum(lengths, 9_254)
  missing = num_rows - int(lengths.sum())
  # What the cap took goes to everybody alike.
  lengths += missing // num_users
  lengths[: missing % num_users] += 1
  return lengths


def _ratings(
    users: np.ndarray,
    lengths: np.ndarray,
    movie_ids: np.ndarray,
    log_popularity: np.ndarray,
    rng: np.random.Generator,
) -> pl.DataFrame:
  columns = []
  for user in users.tolist():
    length = int(lengths[user])
    # The largest of log weight + Gumbel noise: a draw without repetition.
    noise = rng.gumbel(size=_ITEMS).astype(np.float32)
    drawn = np.argpartition(log_popularity + noise, _ITEMS - length)
    first = rng.integers(_FIRST_TIME, _LAST_TIME)
    columns.append((
        np.full(length, user + 1),
        movie_ids[np.sort(drawn[_ITEMS - length :])],
        rng.integers(1, 11, length) / 2,
        first + rng.integers(0, 30 * length, length),
    ))
  names = ('userId', 'movieId', 'rating', 'timestamp')
  return pl.DataFrame(
      dict(zip(names, (np.concatenate(part) for part in zip(*columns))))
  )


def measure(source: pathlib.Path, output: pathlib.Path, cores: int) -> dict:
  """Runs data_prep on `cores` cores; its stages go to stderr."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
  command = [
      sys.executable,
      '-m',
      'data_prep',
      'movielens',
      f'--input={source}',
      f'--output={output}',
  ]
  environment = {**os.environ, 'POLARS_MAX_THREADS': str(cores)}
  start_secs = time.monotonic()
  process = subprocess.Popen(
      command,
      env=environment,
      cwd=pathlib.Path(__file__).resolve().parent.parent,
  )
  _, status, usage = os.wait4(process.pid, 0)
  wall_secs = time.monotonic() - start_secs
  if status:
    raise SystemExit(f'{" ".join(command)} failed')
  return {
      'wall_secs': wall_secs,
      'cpu_secs': usage.ru_utime + usage.ru_stime,
      'peak_bytes': usage.ru_maxrss * 1024,
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--work_dir', default='/tmp/data_prep_20m')
  parser.add_argument('--rows', type=int, default=_ROWS)
  parser.add_argument('--cores', type=int, default=2)
  parser.add_argument('--keep', action='store_true', help='the files')
  parser.add_argument('--generate_only', action='store_true')
  args = parser.parse_args()
  work_dir = pathlib.Path(args.work_dir)
  source = work_dir / 'ml-20m'
  if args.generate_only:
    generate(source, args.rows)
    return
  if not source.exists():
    # In a process of its own: Linux counts a parent's peak memory as its
    # children's.
    subprocess.run([sys.executable, *sys.argv, '--generate_only'], check=True)
  shutil.rmtree(work_dir / 'prepared', ignore_errors=True)
  try:
    result = measure(source, work_dir / 'prepared', args.cores)
  finally:
    if not args.keep:
      shutil.rmtree(work_dir)
  rate = args.rows / result['wall_secs']
  print(
      f'{args.rows:,} synthetic rows in the ml-20m layout, {args.cores} cores: '
      f'{result["wall_secs"]:.1f} s wall, {result["cpu_secs"]:.1f} s CPU, '
      f'{result["peak_bytes"] / _GIB:.2f} GiB peak, {rate:,.0f} rows/s'
  )


if __name__ == '__main__':
  main()
