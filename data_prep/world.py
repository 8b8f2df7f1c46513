"""A small world whose rules are known, so that its optimum is computable.

A user has one of a few tastes and never sees an item twice. Given the taste z
and the last item i, the next is j with probability proportional to

  (1 - wander) * transition[z, i, j] + wander * choice[z, j]

over the items not yet seen: `transition` follows the taste's own cycle through
the genres, or goes home to its favourite, mostly within a theme; `choice` is
popularity times the taste's liking of the genre. Ratings depend on the liking.

Array suffixes: U users, T events, Z tastes, I items, R stars.
"""

import dataclasses
import math

import numpy as np

from data_prep import titles

NUM_STARS = 5
_USERS_A_CHUNK = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig:
  """The world's size and rules; see the module's docstring.

  Attributes:
    num_users: Users.
    num_items: Items; item i has the genre i % num_genres.
    num_genres: Genres; an item has one, or
    two_genre_fraction: of the items, a second one as well.
    num_tastes: Tastes; each has a favourite genre of its own.
    num_themes: Themes, which cut across genres.
    min_events: Fewest events of a user, and
    max_events: most; lengths are uniform.
    wander: Weight of choosing freely against following the last item.
    go_home: Chance of a transition to the favourite genre.
    keep_theme: Chance of a transition to stay in the theme.
    popularity_exponent: Item of popularity rank r has weight r**-this.
  """

  num_users: int = 4000
  num_items: int = 240
  num_genres: int = 12
  num_tastes: int = 5
  num_themes: int = 4
  min_events: int = 25
  max_events: int = 60
  two_genre_fraction: float = 0.4
  wander: float = 0.2
  go_home: float = 0.4
  keep_theme: float = 0.7
  popularity_exponent: float = 0.8

  def __post_init__(self):
    limits = (
        ('num_users', 1, None, ''),
        ('num_genres', 2, len(titles.GENRES), ''),
        ('num_tastes', 1, self.num_genres, ' (--num_genres)'),
        ('num_themes', 2, len(titles.ADJECTIVES), ''),
        (
            'num_items',
            self.num_genres * self.num_themes,
            None,
            ' (--num_genres times --num_themes)',
        ),
        # One for the test, one for the validation, one of history.
        ('min_events', 3, self.max_events, ' (--max_events)'),
        (
            'max_events',
            self.min_events,
            self.num_items // 2,
            ' (--min_events to half of --num_items)',
        ),
    )
    for name, low, high, told in limits:
      value = getattr(self, name)
      if value < low or (high is not None and value > high):
        bounds = f'at least {low}' if high is None else f'from {low} to {high}'
        default = ', its default' if value == getattr(WorldConfig, name) else ''
        raise ValueError(
            f'--{name} must be {bounds}{told}, got {value}{default}.'
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
  """The rules as tables.

  Attributes:
    config: What they were drawn for.
    genre: i64[I] an item's genre.
    second_genre: i64[I] its second one, or -1.
    theme: i64[I] its theme.
    choice_ZI: f64 distribution of a first item.
    follow_ZII: f64 distribution of the item after item [z, i], seen or not.
    stars_ZIR: f64 distribution of an item's rating.
  """

  config: WorldConfig
  genre: np.ndarray
  second_genre: np.ndarray
  theme: np.ndarray
  choice_ZI: np.ndarray
  follow_ZII: np.ndarray
  stars_ZIR: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Histories:
  """What the users of a world did.

  Attributes:
    taste_U: i64, which nobody but the simulator sees.
    length_U: i64 events of each user.
    item_UT: i64, -1 after the last event.
    star_UT: i64 in [0, NUM_STARS), 0 after the last event.
  """

  taste_U: np.ndarray
  length_U: np.ndarray
  item_UT: np.ndarray
  star_UT: np.ndarray


def make_world(config: WorldConfig, rng: np.random.Generator) -> World:
  """Draws the rules of a world."""
  num_items, num_genres = config.num_items, config.num_genres
  index = np.arange(num_items)
  genre = index % num_genres
  theme = index // num_genres % config.num_themes
  other = (genre + rng.integers(1, num_genres, num_items)) % num_genres
  has_second = rng.random(num_items) < config.two_genre_fraction
  popularity = (1.0 + rng.permutation(num_items)) ** -config.popularity_exponent

  favourite = rng.permutation(num_genres)[: config.num_tastes]
  liking_ZI = _liking(favourite, genre, num_genres)
  choice_ZI = _normalised((1 + 11 * liking_ZI) * popularity)

  follow_ZII = np.empty((config.num_tastes, num_items, num_items))
  same_theme = theme[:, None] == theme[None]
  theme_II = np.where(
      same_theme,
      config.keep_theme,
      (1 - config.keep_theme) / (config.num_themes - 1),
  )
  cell = genre * config.num_themes + theme
  within_cell = popularity / np.bincount(cell, weights=popularity)[cell]
  for taste, home in enumerate(favourite):
    cycle = rng.permutation(num_genres)
    after = np.empty_like(cycle)
    after[cycle] = np.roll(cycle, -1)
    genre_II = (1 - config.go_home) * (after[genre][:, None] == genre[None])
    genre_II += config.go_home * (home == genre)[None]
    transition_II = _normalised(genre_II * theme_II * within_cell)
    follow_ZII[taste] = (
        1 - config.wander
    ) * transition_II + config.wander * choice_ZI[taste]
  return World(
      config=config,
      genre=genre,
      second_genre=np.where(has_second, other, -1),
      theme=theme,
      choice_ZI=choice_ZI,
      follow_ZII=follow_ZII,
      stars_ZIR=_star_distribution(liking_ZI),
  )


def _liking(
    favourite: np.ndarray, genre: np.ndarray, num_genres: int
) -> np.ndarray:
  """1 for the favourite genre, 0.2 for the one after it, else 0."""
  liking_ZI = (genre[None] == favourite[:, None]).astype(float)
  neighbour = (favourite + 1) % num_genres
  return liking_ZI + 0.2 * (genre[None] == neighbour[:, None])


def _star_distribution(liking_ZI: np.ndarray) -> np.ndarray:
  """Binomial, from 2.8 stars on average to 4.4 for what is liked most."""
  p_ZI1 = (0.45 + 0.4 * np.minimum(liking_ZI, 1))[..., None]
  k = np.arange(NUM_STARS)
  ways = np.array([math.comb(NUM_STARS - 1, i) for i in k])
  return ways * p_ZI1**k * (1 - p_ZI1) ** (NUM_STARS - 1 - k)


def _normalised(weights: np.ndarray) -> np.ndarray:
  return weights / weights.sum(axis=-1, keepdims=True)


def sample_histories(world: World, rng: np.random.Generator) -> Histories:
  """Lets the users of a world live."""
  config = world.config
  num_users = config.num_users
  length_U = rng.integers(config.min_events, config.max_events + 1, num_users)
  taste_U = rng.integers(config.num_tastes, size=num_users)
  users = np.arange(num_users)
  item_UT = np.full((num_users, config.max_events), -1)
  star_UT = np.zeros_like(item_UT)
  unseen_UI = np.ones((num_users, config.num_items), bool)
  for t in range(config.max_events):
    if t == 0:
      weights_UI = world.choice_ZI[taste_U]
    else:
      weights_UI = world.follow_ZII[taste_U, item_UT[:, t - 1]]
    item = _draw(weights_UI * unseen_UI, rng)
    unseen_UI[users, item] = False
    item_UT[:, t] = item
    star_UT[:, t] = _draw(world.stars_ZIR[taste_U, item], rng)
  after = np.arange(config.max_events)[None] >= length_U[:, None]
  return Histories(
      taste_U=taste_U,
      length_U=length_U,
      item_UT=np.where(after, -1, item_UT),
      star_UT=np.where(after, 0, star_UT),
  )


def _draw(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """One index a row, by inverting the cumulated weights."""
  cumulated = weights.cumsum(axis=1)
  point = rng.random((len(weights), 1)) * cumulated[:, -1:]
  # argmax of the first above: never an index of weight 0.
  return (cumulated > point).argmax(axis=1)


def predict_last(world: World, histories: Histories) -> np.ndarray:
  """The Bayes-optimal distribution of each user's last item.

  That is P(item | items and ratings before), the taste being summed out by its
  posterior; it is exact, since tastes are few and the rules are known.

  Returns:
    f64[U, I], 0 for items seen before.
  """
  num_users = len(histories.length_U)
  predicted_UI = np.empty((num_users, world.config.num_items))
  for start in range(0, num_users, _USERS_A_CHUNK):
    chunk = slice(start, start + _USERS_A_CHUNK)
    predicted_UI[chunk] = _predict_chunk(
        world,
        histories.length_U[chunk],
        histories.item_UT[chunk],
        histories.star_UT[chunk],
    )
  return predicted_UI


def _predict_chunk(
    world: World,
    length_U: np.ndarray,
    item_UT: np.ndarray,
    star_UT: np.ndarray,
) -> np.ndarray:
  users = np.arange(len(length_U))
  unseen_UI = np.ones((len(users), world.config.num_items))
  log_likelihood_ZU = np.zeros((world.config.num_tastes, len(users)))
  predicted_UI = np.empty_like(unseen_UI)
  for t in range(int(length_U.max())):
    if t == 0:
      weights_ZUI = world.choice_ZI[:, None] * unseen_UI
    else:
      weights_ZUI = world.follow_ZII[:, item_UT[:, t - 1]] * unseen_UI
    weights_ZUI = _normalised(weights_ZUI)
    is_last = length_U == t + 1
    posterior_ZU = _softmax(log_likelihood_ZU[:, is_last])
    predicted_UI[is_last] = np.einsum(
        'zu,zui->ui', posterior_ZU, weights_ZUI[:, is_last]
    )
    # Users past their end go on with item -1; nothing is read from them.
    item = item_UT[:, t]
    with np.errstate(divide='ignore'):
      log_likelihood_ZU += np.log(weights_ZUI[:, users, item])
      log_likelihood_ZU += np.log(world.stars_ZIR[:, item, star_UT[:, t]])
    unseen_UI[users, item] = 0
  return predicted_UI


def _softmax(x_ZU: np.ndarray) -> np.ndarray:
  e_ZU = np.exp(x_ZU - x_ZU.max(axis=0, keepdims=True))
  return e_ZU / e_ZU.sum(axis=0, keepdims=True)
