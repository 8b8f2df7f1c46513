"""The embedded dataset: a known world in MovieLens' layout, and its optimum."""

import csv
import dataclasses
import json
import pathlib
import tempfile

import numpy as np

from data_prep import movielens
from data_prep import privacy
from data_prep import progress
from data_prep import raw
from data_prep import titles
from data_prep import world as worlds
from user_llm.data import schema

BAYES_FILE = 'bayes.json'
_CUTOFFS = (1, 5, 10)
_POLICIES = ('all', 'unseen')
_FIRST_TIME = 1_000_000_000
_LONGEST_PAUSE_SECS = 86_400


def read(
    config: worlds.WorldConfig,
    *,
    seed: int,
    scratch: pathlib.Path,
    name: str,
    user_key: privacy.UserKey | None = None,
) -> raw.RawDataset:
  """Simulates a world and reads it as any MovieLens.

  Args:
    config: The world.
    seed: Of everything drawn.
    scratch: An empty directory for the Parquet files.
    name: The dataset's name.
    user_key: Hashes the users.

  Returns:
    Its ratings and movies, and the optimum as `bayes.json`.
  """
  with tempfile.TemporaryDirectory(dir=scratch) as upstream:
    bayes = simulate(config, seed=seed, directory=pathlib.Path(upstream))
    ratings = movielens.read(
        path=upstream, scratch=scratch, name=name, user_key=user_key
    )
  return dataclasses.replace(ratings, extra_files={BAYES_FILE: bayes})


def simulate(
    config: worlds.WorldConfig, *, seed: int, directory: pathlib.Path
) -> str:
  """Writes a world's movies.csv and ratings.csv.

  Args:
    config: The world.
    seed: Of everything drawn.
    directory: Where to write.

  Returns:
    The text of `bayes.json`.
  """
  rng = np.random.default_rng(seed)
  with progress.stage('simulate') as stage:
    world = worlds.make_world(config, rng)
    histories = worlds.sample_histories(world, rng)
    _write_movies(world, directory / 'movies.csv', rng)
    _write_ratings(histories, directory / 'ratings.csv', rng)
    stage.rows = int(histories.length_U.sum())
  with progress.stage('Bayes optimum'):
    predicted_UI = worlds.predict_last(world, histories)
  optimum = {
      'metrics': ranking_metrics(predicted_UI, histories),
      'n': config.num_users,
      'split_fingerprint': _fingerprint(histories),
  }
  return (
      json.dumps({schema.LEAVE_ONE_OUT.name: optimum}, indent=1, sort_keys=True)
      + '\n'
  )


def ranking_metrics(
    scores_UI: np.ndarray, histories: worlds.Histories
) -> dict[str, dict[str, float]]:
  """Metrics of a full ranking of the unseen items, ties against the scores.

  Seen items have no chance in this world, so that both policies agree.

  Returns:
    `<metric>/<policy>` to its mean and standard error.
  """
  users = np.arange(len(scores_UI))
  last = histories.length_U - 1
  true_U = scores_UI[users, histories.item_UT[users, last]]
  scores_UI = scores_UI.copy()
  for t in range(histories.item_UT.shape[1]):
    before = t < last
    scores_UI[users[before], histories.item_UT[before, t]] = -np.inf
  rank_U = (scores_UI >= true_U[:, None]).sum(axis=1)
  values = {f'recall@{k}': rank_U <= k for k in _CUTOFFS}
  values['ndcg@10'] = np.where(rank_U <= 10, 1 / np.log2(rank_U + 1), 0)
  values['mrr@10'] = np.where(rank_U <= 10, 1 / rank_U, 0)
  return {
      f'{metric}/{policy}': {
          'mean': float(np.mean(value)),
          'stderr': float(np.std(value, ddof=1) / np.sqrt(len(value))),
      }
      for metric, value in values.items()
      for policy in _POLICIES
  }


def _fingerprint(histories: worlds.Histories) -> str:
  last = histories.length_U - 1
  return schema.split_fingerprint(
      (
          str(histories.item_UT[user, end - 1] + 1),
          str(histories.item_UT[user, end] + 1),
      )
      for user, end in enumerate(last)
  )


def _write_movies(
    world: worlds.World, path: pathlib.Path, rng: np.random.Generator
) -> None:
  names = titles.make_titles(world.genre, world.theme, rng)
  with path.open('w', newline='', encoding='utf-8') as handle:
    writer = csv.writer(handle, lineterminator='\n')
    writer.writerow(['movieId', 'title', 'genres'])
    for item, title in enumerate(names):
      genres = {
          titles.GENRES[genre]
          for genre in (world.genre[item], world.second_genre[item])
          if genre >= 0
      }
      writer.writerow([item + 1, title, '|'.join(sorted(genres))])


def _write_ratings(
    histories: worlds.Histories, path: pathlib.Path, rng: np.random.Generator
) -> None:
  """By user and then movie, as upstream has it; the times hold the order."""
  pauses = rng.integers(1, _LONGEST_PAUSE_SECS, size=histories.item_UT.shape)
  time_UT = _FIRST_TIME + pauses.cumsum(axis=1)
  user, event = np.nonzero(histories.item_UT >= 0)
  item = histories.item_UT[user, event]
  order = np.lexsort((item, user))
  columns = (
      user[order] + 1,
      item[order] + 1,
      histories.star_UT[user, event][order] + 1.0,
      time_UT[user, event][order],
  )
  with path.open('w', newline='', encoding='utf-8') as handle:
    writer = csv.writer(handle, lineterminator='\n')
    writer.writerow(['userId', 'movieId', 'rating', 'timestamp'])
    writer.writerows(zip(*(column.tolist() for column in columns)))
