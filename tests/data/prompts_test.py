import string

import numpy as np
import pytest

from user_llm.data import prompts
from user_llm.data import schema

_SCHEMA = schema.EventSchema(
    name='films',
    modalities=(
        schema.Modality(name='item', size=5),
        schema.Modality(name='rating', size=3, values=('1', '2')),
    ),
    item_noun='film',
)


def test_every_task_has_wordings_with_the_same_slots():
  for task, templates in prompts.TEMPLATES.items():
    assert len(set(templates)) == len(templates) >= 3, task
    slots = {prompts.pieces(t)[1] for t in templates}
    for template in templates:
      slots.add(tuple(
          name for _, name, _, _ in string.Formatter().parse(template)
          if name in prompts.SLOTS
      ))
      # Words around a slot are whole words, each with its space.
      for slot in prompts.SLOTS:
        assert f'{{{slot}}}' in template.split() or slot not in template
    in_review = ('item', 'rating') if task == 'review_generation' else ()
    if task == 'unrated_review_generation':
      in_review = ('item',)
    known = {s for s in slots if not set(s) & {'noun', 'label'}}
    assert known - {()} <= {in_review}, task


@pytest.mark.parametrize(
    ['task', 'first'],
    [
        ('next_item', 'Which film next?'),
        ('favourite_genre', 'Favourite genre?'),
        ('future_favourite_category', 'Next favourite category?'),
        ('review_generation', 'Review of {item} rated {rating}'),
    ],
)
def test_noun_and_label_are_filled(task, first):
  assert prompts.templates(task, _SCHEMA)[0] == first


def test_without_ratings_a_review_names_the_item():
  found = prompts.templates('review_generation', _SCHEMA.select(('item',)))
  assert {prompts.pieces(t)[1] for t in found} == {('item',)}


def test_pieces_worked_example():
  assert prompts.pieces('Review of {item} rated {rating}') == (
      ('Review of', 'rated', ''), ('item', 'rating')
  )
  assert prompts.pieces('Which film next?') == (('Which film next?',), ())


def test_choices_are_a_function_of_seed_and_example_and_even():
  ids = np.arange(30_000)
  for seed in (0, 1, 2**63):
    found = prompts.choices(seed, ids)
    assert found.min() >= 0 and found.dtype == np.int64
    np.testing.assert_array_equal(prompts.choices(seed, ids[7:9]), found[7:9])
    counts = np.bincount(found % 3)
    # Three standard deviations of a third of 30,000 draws.
    assert np.abs(counts - 10_000).max() < 3 * np.sqrt(30_000 * 2 / 9)
  same = prompts.choices(0, ids) % 3 == prompts.choices(1, ids) % 3
  assert abs(same.mean() - 1 / 3) < 0.01
