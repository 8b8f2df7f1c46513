"""Readable, unique titles: `The Silent Harbor (1987)`."""

import numpy as np

NOUNS = {
    'Action': ('Chase', 'Raid', 'Convoy', 'Strike', 'Pursuit'),
    'Adventure': ('Voyage', 'Island', 'Summit', 'Compass', 'Expedition'),
    'Animation': ('Fox', 'Lantern', 'Balloon', 'Puppet', 'Robin'),
    'Comedy': ('Wedding', 'Landlord', 'Cousin', 'Picnic', 'Waiter'),
    'Crime': ('Heist', 'Alibi', 'Witness', 'Verdict', 'Ransom'),
    'Drama': ('Harbor', 'Orchard', 'Letter', 'Winter', 'Daughter'),
    'Fantasy': ('Dragon', 'Wizard', 'Crown', 'Spell', 'Forest'),
    'Horror': ('Cellar', 'Scream', 'Grave', 'Mirror', 'Asylum'),
    'Musical': ('Melody', 'Chorus', 'Stage', 'Waltz', 'Trumpet'),
    'Mystery': ('Cipher', 'Manor', 'Riddle', 'Portrait', 'Key'),
    'Romance': ('Kiss', 'Summer', 'Promise', 'Garden', 'Balcony'),
    'Sci-Fi': ('Orbit', 'Android', 'Signal', 'Nebula', 'Colony'),
    'Thriller': ('Deadline', 'Stranger', 'Ledge', 'Hostage', 'Pulse'),
    'War': ('Trench', 'Battalion', 'Siege', 'Armistice', 'Bunker'),
    'Western': ('Saddle', 'Canyon', 'Outlaw', 'Ranch', 'Sheriff'),
}
ADJECTIVES = (
    ('Silent', 'Hidden', 'Quiet', 'Secret', 'Distant'),
    ('Golden', 'Bright', 'Happy', 'Gentle', 'Lucky'),
    ('Broken', 'Bitter', 'Lonely', 'Crooked', 'Faded'),
    ('Burning', 'Iron', 'Savage', 'Restless', 'Crimson'),
    ('Ancient', 'Frozen', 'Endless', 'Northern', 'Stolen'),
    ('Electric', 'Paper', 'Velvet', 'Modern', 'Plastic'),
)
GENRES = tuple(NOUNS)
_FIRST_YEAR = 1950
_YEARS = 70


def make_titles(
    genre: np.ndarray, theme: np.ndarray, rng: np.random.Generator
) -> list[str]:
  """Titles whose noun tells the genre and whose adjective tells the theme.

  Args:
    genre: i64[items], in [0, len(GENRES)).
    theme: i64[items], in [0, len(ADJECTIVES)).
    rng: What draws words and years.

  Returns:
    As many different titles.

  Raises:
    ValueError: There are more items of a genre and theme than titles.
  """
  titles = [''] * len(genre)
  for cell in np.unique(np.stack([genre, theme], axis=1), axis=0).tolist():
    members = np.flatnonzero((genre == cell[0]) & (theme == cell[1])).tolist()
    pairs = [
        f'The {adjective} {noun}'
        for adjective in ADJECTIVES[cell[1]]
        for noun in NOUNS[GENRES[cell[0]]]
    ]
    if len(members) > len(pairs) * _YEARS:
      raise ValueError(
          f'{len(members)} items of one genre and theme have only '
          f'{len(pairs) * _YEARS} titles; lower --num_items or raise '
          '--num_genres.'
      )
    order = rng.permutation(len(pairs))
    first_year = rng.integers(_YEARS, size=len(pairs))
    for number, member in enumerate(members):
      pair = order[number % len(pairs)]
      # A pair of words that comes again has the next year.
      year = (first_year[pair] + number // len(pairs)) % _YEARS
      titles[member] = f'{pairs[pair]} ({_FIRST_YEAR + year})'
  return titles
