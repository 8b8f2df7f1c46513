"""Tests of the synthetic world and its exact optimum."""

import dataclasses
import itertools
import math

from data_prep import synthetic
from data_prep import titles
from data_prep import world as worlds
import numpy as np
import pytest

TINY = worlds.WorldConfig(
    num_users=40,
    num_items=12,
    num_genres=3,
    num_tastes=2,
    num_themes=2,
    min_events=3,
    max_events=6,
)


def _simulate(config, seed=0):
  rng = np.random.default_rng(seed)
  world = worlds.make_world(config, rng)
  return world, worlds.sample_histories(world, rng)


def test_tables_are_distributions():
  world, _ = _simulate(TINY)
  for table in (world.choice_ZI, world.follow_ZII, world.stars_ZIR):
    assert (table >= 0).all()
    np.testing.assert_allclose(table.sum(axis=-1), 1)


def test_no_item_twice_and_lengths():
  _, histories = _simulate(TINY)
  for items, length in zip(histories.item_UT, histories.length_U):
    assert TINY.min_events <= length <= TINY.max_events
    assert (items[:length] >= 0).all() and (items[length:] == -1).all()
    assert len(set(items[:length].tolist())) == length


def test_optimum_by_brute_force():
  """Bayes' rule spelt out: P(items, stars | z), summed over z, for each j."""
  world, histories = _simulate(TINY)
  predicted_UI = worlds.predict_last(world, histories)
  for user in range(TINY.num_users):
    end = histories.length_U[user] - 1
    items = histories.item_UT[user, :end].tolist()
    stars = histories.star_UT[user, :end].tolist()
    joint_ZI = np.array([
        [
            _likelihood(world, taste, [*items, item], stars)
            for item in range(TINY.num_items)
        ]
        for taste in range(TINY.num_tastes)
    ])
    expected_I = joint_ZI.sum(axis=0) / joint_ZI.sum()
    np.testing.assert_allclose(predicted_UI[user], expected_I, atol=1e-12)


def _likelihood(world, taste, items, stars):
  """P(items and stars | taste); the last item has no rating yet."""
  likelihood = 1.0
  for t, item in enumerate(items):
    if item in items[:t]:
      return 0.0
    if t == 0:
      weights = world.choice_ZI[taste]
    else:
      weights = world.follow_ZII[taste, items[t - 1]]
    unseen = set(range(len(weights))) - set(items[:t])
    likelihood *= weights[item] / sum(weights[i] for i in unseen)
    if t < len(stars):
      likelihood *= world.stars_ZIR[taste, item, stars[t]]
  return likelihood


def test_optimum_by_monte_carlo():
  """Of 40,000 users with one history, as many go to j as predicted."""
  config = dataclasses.replace(
      TINY, num_users=40_000, min_events=3, max_events=3
  )
  world, histories = _simulate(config)
  predicted_UI = worlds.predict_last(world, histories)
  first = histories.item_UT[:, :2], histories.star_UT[:, :2]
  keys = np.concatenate(first, axis=1)
  common, counts = np.unique(keys, axis=0, return_counts=True)
  key = common[counts.argmax()]
  same = (keys == key).all(axis=1)
  n = same.sum()
  assert n > 200
  observed_I = np.bincount(histories.item_UT[same, 2], minlength=12) / n
  predicted_I = predicted_UI[same][0]
  error_I = np.sqrt(predicted_I * (1 - predicted_I) / n)
  assert (np.abs(observed_I - predicted_I) <= 4 * error_I + 1e-9).all()


def test_predictions_are_calibrated_in_the_default_world():
  """The top 10's probability is its hit rate; the regime is as meant."""
  world, histories = _simulate(worlds.WorldConfig())
  predicted_UI = worlds.predict_last(world, histories)
  np.testing.assert_allclose(predicted_UI.sum(axis=1), 1)
  bayes = synthetic.ranking_metrics(predicted_UI, histories)['recall@10/all']
  expected = np.sort(predicted_UI, axis=1)[:, -10:].sum(axis=1).mean()
  assert abs(bayes['mean'] - expected) < 3 * bayes['stderr']

  markov_UI, popularity_UI = _floors(histories, world.config)
  markov = synthetic.ranking_metrics(markov_UI, histories)['recall@10/all']
  popular = synthetic.ranking_metrics(popularity_UI, histories)['recall@10/all']
  assert 0.6 < bayes['mean'] < 0.75
  assert 0.3 < markov['mean'] < 0.45
  assert 0.08 < popular['mean'] < 0.2


def _floors(histories, config):
  users = np.arange(config.num_users)
  last = histories.length_U - 1
  follows = np.zeros((config.num_items, config.num_items))
  seen = np.zeros(config.num_items)
  for t in range(config.max_events):
    before = t < last
    np.add.at(seen, histories.item_UT[before, t], 1)
    if t:
      pair = histories.item_UT[before, t - 1], histories.item_UT[before, t]
      np.add.at(follows, pair, 1)
  popularity_UI = np.tile(seen / seen.sum(), (config.num_users, 1))
  last_item = histories.item_UT[users, last - 1]
  return follows[last_item] + popularity_UI, popularity_UI


def test_ranking_metrics():
  """Ranks 1, 3 of the unseen, and 4 since ties count against the scores."""
  scores = np.array([
      [9.0, 1, 5, 2, 0],  # Seen 0, 1; true 2: rank 1.
      [1.0, 9, 2, 3, 4],  # Seen 1; true 2: rank 3.
      [0.0, 0, 0, 0, 0],  # Seen 3; true 0: rank 4.
  ])
  histories = worlds.Histories(
      taste_U=np.zeros(3, int),
      length_U=np.array([3, 2, 2]),
      item_UT=np.array([[0, 1, 2], [1, 2, -1], [3, 0, -1]]),
      star_UT=np.zeros((3, 3), int),
  )
  told = synthetic.ranking_metrics(scores, histories)
  assert told['recall@1/all']['mean'] == pytest.approx(1 / 3)
  assert told['recall@5/unseen']['mean'] == 1
  ndcg = (1 + 1 / 2 + 1 / math.log2(5)) / 3
  assert told['ndcg@10/all']['mean'] == pytest.approx(ndcg)
  assert told['mrr@10/all']['mean'] == pytest.approx((1 + 1 / 3 + 1 / 4) / 3)
  # Of 1, 0, 0: variance (with n - 1) 1/3, over 3.
  assert told['recall@1/all']['stderr'] == pytest.approx(1 / 3)


def test_titles_are_unique():
  genre, theme = np.divmod(np.arange(3000) % 6, 3)
  made = titles.make_titles(genre, theme, np.random.default_rng(0))
  assert len(set(made)) == 3000
  nouns = titles.NOUNS[titles.GENRES[0]]
  assert made[0].split()[0] == 'The' and made[0].split()[2] in nouns
  with pytest.raises(ValueError, match='--num_items'):
    titles.make_titles(
        np.zeros(2000, int), np.zeros(2000, int), np.random.default_rng(0)
    )
  words = itertools.chain(*titles.NOUNS.values(), *titles.ADJECTIVES)
  assert len(set(words)) == 5 * (len(titles.NOUNS) + len(titles.ADJECTIVES))


@pytest.mark.parametrize(
    'sizes, flag',
    [
        ({'num_users': 0}, '--num_users'),
        ({'num_items': 10}, '--num_items'),
        ({'num_tastes': 13}, '--num_tastes'),
        ({'num_genres': 99}, '--num_genres'),
        ({'min_events': 2}, '--min_events'),
        ({'min_events': 61}, '--min_events'),
        ({'max_events': 200}, '--max_events'),
    ],
)
def test_config_names_the_flag(sizes, flag):
  with pytest.raises(ValueError, match=flag):
    worlds.WorldConfig(**sizes)
