import numpy as np
import pytest

from user_llm.data import answers
from user_llm.data import schema
from user_llm.data import vocabulary

GENRE = schema.Modality(
    name='genre',
    size=6,
    values=('', 'Comedy', 'Comedy|Drama', 'Drama', 'War|Drama'),
    separator='|',
)


def test_label_names_are_sorted():
  assert answers.label_names(GENRE) == ('Comedy', 'Drama', 'War')


def test_answers_end_with_eos_and_row_0_is_empty(tiny_vocabulary):
  loaded = vocabulary.load(tiny_vocabulary)
  found = answers.favourite(GENRE, loaded)
  assert found.texts == ('Comedy', 'Drama', 'War')
  assert not found.tokens[0].any()
  for text, row in zip(found.texts, found.tokens[1:]):
    tokens = row[row > 0].tolist()
    assert tokens == loaded.encode(text) + [vocabulary.EOS_ID]
    assert np.all(row[len(tokens) :] == 0)


def test_answers_that_the_vocabulary_cannot_spell(tiny_vocabulary):
  loaded = vocabulary.load(tiny_vocabulary)
  texts = ('Heat', '千と千尋', '七人の侍')
  with pytest.raises(ValueError, match="spell 2 of 3 answers, as '千と千尋'"):
    answers.tokenise(texts, loaded)
