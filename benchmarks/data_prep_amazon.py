"""Times `python -m data_prep amazon_reviews` on 20 million reviews.

The reviews are SYNTHETIC, in the layout of 2023 as gzip JSON lines, with their
metadata; making them is not counted. Run from the checkout:

  python benchmarks/data_prep_amazon.py --work_dir /tmp/data_prep_amazon
"""

import argparse
import gzip
import json
import multiprocessing
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import polars as pl
import psutil

_FILES = 8
_ROWS_A_USER = 10
_ROWS_AN_ITEM = 40
_CHUNK_ROWS = 250_000
_BAD_EVERY = 10_000
_POOL = 100_000
_FIRST_MILLISECS = 1_000_000_000_000
_LAST_MILLISECS = 1_690_000_000_000
_BASE32 = np.frombuffer(b'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', np.uint8)
_GIB = 1 << 30
_SAMPLE_SECS = 0.5


def _ids(prefix: str, count: int, length: int, seed: int) -> pl.Series:
  """Different ids of `length` characters after the prefix."""
  rng = np.random.default_rng(seed)
  letters = _BASE32[rng.integers(0, 32, (count, length))]
  ids = pl.Series(letters.view(f'S{length}').ravel().astype(str))
  return prefix + ids


def _texts(
    rng: np.random.Generator, count: int, fewest: int, most: int
) -> pl.Series:
  """Texts of `fewest` to `most` words, five letters on average."""
  words = [
      ''.join(rng.choice(list('etaoinshrdlu'), rng.integers(1, 10)))
      for _ in range(5_000)
  ]
  lengths = rng.integers(fewest, most + 1, count)
  drawn = (5_000 * rng.random(lengths.sum()) ** 3).astype(int).tolist()
  ends = np.cumsum(lengths).tolist()
  return pl.Series([
      ' '.join(words[i] for i in drawn[end - length : end])
      for end, length in zip(ends, lengths.tolist())
  ])


def _write_reviews(path: pathlib.Path, num_rows: int, of: int) -> None:
  """One category's reviews; all categories share users and items."""
  rng = np.random.default_rng([2023, int(path.name[1])])
  users = _ids('AE', max(1, of // _ROWS_A_USER), 26, seed=1)
  items = _ids('B0', max(1, of // _ROWS_AN_ITEM), 8, seed=2)
  popularity = np.cumsum((10.0 + np.arange(len(items))) ** -0.9)
  titles, texts = _texts(rng, _POOL, 1, 6), _texts(rng, _POOL, 20, 50)
  with gzip.open(path, 'wb', compresslevel=1) as handle:
    for start in range(0, num_rows, _CHUNK_ROWS):
      size = min(_CHUNK_ROWS, num_rows - start)
      # Some users write much more than others.
      user = len(users) * rng.random(size) ** 1.5
      item = np.searchsorted(popularity, rng.random(size) * popularity[-1])
      rating = rng.choice([1, 2, 3, 4, 5], size, p=[0.1, 0.05, 0.1, 0.15, 0.6])
      rating[np.arange(start, start + size) % _BAD_EVERY == 0] = 0
      chosen = items.gather(item)
      pl.DataFrame({
          'rating': rating.astype(float),
          'title': titles.gather(rng.integers(0, _POOL, size)),
          'text': texts.gather(rng.integers(0, _POOL, size)),
          'images': pl.repeat([], size, dtype=pl.List(pl.String), eager=True),
          'asin': chosen,
          'parent_asin': chosen,
          'user_id': users.gather(user.astype(int)),
          'timestamp': rng.integers(_FIRST_MILLISECS, _LAST_MILLISECS, size),
          'helpful_vote': rng.integers(0, 3, size),
          'verified_purchase': rng.random(size) < 0.9,
      }).write_ndjson(handle)


def generate(directory: pathlib.Path, num_rows: int) -> None:
  """Writes files of reviews, and one of their metadata."""
  directory.mkdir(parents=True)
  files = min(_FILES, num_rows)
  with multiprocessing.get_context('spawn').Pool() as pool:
    pool.starmap(
        _write_reviews,
        [
            (
                directory / f'C{i}.jsonl.gz',
                num_rows // files + (i < num_rows % files),
                num_rows,
            )
            for i in range(files)
        ],
        chunksize=1,
    )
  items = _ids('B0', max(1, num_rows // _ROWS_AN_ITEM), 8, seed=2)
  titles = _texts(np.random.default_rng(3), _POOL, 3, 15)
  with gzip.open(directory / 'meta_C.jsonl.gz', 'wt', compresslevel=1) as file:
    for i, item in enumerate(items):
      row = {
          'main_category': 'All',
          'title': f'{titles[i % _POOL]} {i}',
          'features': [titles[i % 997]] * 3,
          'price': 9.99,
          'categories': ['All', f'Kind {i % 30}', f'Sort {i % 300}'],
          'parent_asin': item,
      }
      file.write(json.dumps(row) + '\n')


def _tree_bytes(process: psutil.Process) -> int:
  """Memory of a process and its children, what they share counted once."""
  total = 0
  for member in (process, *process.children(recursive=True)):
    try:
      total += member.memory_full_info().pss
    except psutil.Error:
      pass  # It has ended.
  return total


def measure(
    source: pathlib.Path, output: pathlib.Path, cores: int
) -> dict[str, float]:
  """Runs data_prep on `cores` cores; its stages go to stderr."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
  command = [
      *(sys.executable, '-m', 'data_prep', 'amazon_reviews'),
      *(f'--input={source}', '--name=amazon_synthetic', f'--output={output}'),
      *('--min_user_events=5', '--min_item_events=5'),
  ]
  start_secs, start_cpu_secs = time.monotonic(), _children_cpu_secs()
  process = subprocess.Popen(
      command,
      env={
          **os.environ,
          'POLARS_MAX_THREADS': str(cores),
          'USER_LLM_USER_KEY': 'synthetic' * 4,
      },
      cwd=pathlib.Path(__file__).resolve().parent.parent,
  )
  peak_bytes = 0
  while process.poll() is None:
    peak_bytes = max(peak_bytes, _tree_bytes(psutil.Process(process.pid)))
    time.sleep(_SAMPLE_SECS)
  if process.returncode:
    raise SystemExit(f'{" ".join(command)} failed')
  return {
      'secs': time.monotonic() - start_secs,
      'cpu_secs': _children_cpu_secs() - start_cpu_secs,
      'peak_bytes': peak_bytes,
  }


def _children_cpu_secs() -> float:
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def _check_accounts(output: pathlib.Path, num_rows: int) -> dict:
  manifest = json.loads((output / 'manifest.json').read_text())
  steps = manifest['cleaning']
  dropped = sum(step['dropped'] for step in steps)
  assert steps[0]['events'] == num_rows
  assert manifest['counts']['events'] + dropped == num_rows
  return manifest


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--work_dir', default='/tmp/data_prep_amazon')
  parser.add_argument('--rows', type=int, default=20_000_000)
  parser.add_argument('--cores', type=int, default=2)
  parser.add_argument('--keep', action='store_true', help='the files')
  args = parser.parse_args()
  work_dir = pathlib.Path(args.work_dir)
  source, output = work_dir / 'raw', work_dir / 'prepared'
  if not source.exists():
    generate(source, args.rows)
  packed_bytes = sum(path.stat().st_size for path in source.iterdir())
  shutil.rmtree(output, ignore_errors=True)
  try:
    result = measure(source, output, args.cores)
    manifest = _check_accounts(output, args.rows)
  finally:
    if not args.keep:
      shutil.rmtree(work_dir)
  print(json.dumps({k: manifest[k] for k in ('counts', 'cleaning')}))
  print(
      f'{args.rows:,} synthetic reviews in the 2023 layout '
      f'({packed_bytes / _GIB:.2f} GiB of gzip), {args.cores} cores: '
      f'{result["secs"]:.1f} s wall, {result["cpu_secs"]:.1f} s CPU, '
      f'{result["peak_bytes"] / _GIB:.2f} GiB peak, '
      f'{args.rows / result["secs"]:,.0f} rows/s'
  )


if __name__ == '__main__':
  main()
