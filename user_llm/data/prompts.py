"""The questions that the language model is asked: several wordings a task.

A change here changes the vocabulary's training text and what a checkpoint was
trained on. The wordings of one task are alike in length, for short batches.
"""

import re

import numpy as np

from user_llm.data import schema as schema_lib

# {noun} and {label} ('film', 'genre') are the dataset's; {item} and {rating} an
# example's, in this order and with spaces around them: their tokens come from a
# table, and every word starts with a space.
TEMPLATES = {
    'next_item': (
        'Which {noun} next?',
        'What {noun} follows?',
        'The next {noun}?',
    ),
    'favourite': (
        'Favourite {label}?',
        'Preferred {label}?',
        'Usual {label}?',
    ),
    'future_favourite': (
        'Next favourite {label}?',
        'Coming favourite {label}?',
        'Future favourite {label}?',
    ),
    'review_generation': (
        'Review of {item} rated {rating}',
        'Words about {item} given {rating}',
        'Opinion on {item} scored {rating}',
    ),
    # Of datasets without ratings.
    'unrated_review_generation': (
        'Review of {item}',
        'Words about {item}',
        'Opinion on {item}',
    ),
}
SLOTS = ('item', 'rating')


def templates(task: str, schema: schema_lib.EventSchema) -> tuple[str, ...]:
  """A task's wordings for one dataset; only {item} and {rating} are left.

  Args:
    task: 'next_item', 'favourite_genre', 'review_generation', ...
    schema: All modalities of the dataset.
  """
  if task == 'review_generation' and 'rating' not in schema.names:
    task = 'unrated_review_generation'
  task, _, label = task.partition('favourite_')
  if label:
    task += 'favourite'
  words = {'noun': schema.item_noun, 'label': label}
  words |= {slot: f'{{{slot}}}' for slot in SLOTS}
  return tuple(t.format_map(words) for t in TEMPLATES[task])


def pieces(template: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """The texts around a template's slots, and the names of these.

  Example: 'Review of {item} rated {rating}' gives ('Review of', 'rated', '')
  and ('item', 'rating').
  """
  parts = re.split(r'\{(\w+)\}', template)
  return tuple(p.strip() for p in parts[::2]), tuple(parts[1::2])


def choices(seed: int, ids: np.ndarray) -> np.ndarray:
  """Which wording each example has, before the modulo by how many there are.

  A hash (SplitMix64) of (seed, example): nothing else decides.

  Args:
    seed: Of the run; 0 in an evaluation.
    ids: int64[N], numbers of examples.

  Returns:
    int64[N] in 0 .. 2**31 - 1.
  """
  start = (seed + 1) * 0x9E3779B97F4A7C15 % 2**64
  x = ids.astype(np.uint64) * np.uint64(0xD1342543DE82EF95) + np.uint64(start)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return (x >> np.uint64(33)).astype(np.int64)
