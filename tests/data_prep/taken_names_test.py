"""No feature of a table is called like what a batch has of its own."""

from data_prep import table_description
import pytest
from user_llm.data import pipeline
from user_llm.data import questions

_TASKS = (
    'events', 'next_item', 'favourite_genre', 'future_favourite_genre',
    'review_generation',
)


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('task', _TASKS)
def test_names_of_a_batch_are_taken(task, split, tiny_dataset, tiny_vocabulary):
  settings = {}
  if task != 'events':
    settings = {
        'vocabulary': tiny_vocabulary,
        'text_length': 400,
        'history_as_text': questions.TextPromptConfig(max_tokens=40),
    }
  dataset = pipeline.Dataset(
      data_dir=tiny_dataset, task=task, history_length=8, **settings
  )
  converter, _ = dataset.converter(split)
  modalities = set(dataset.schema.names)
  # A feature has `name` before it is converted, and `user_<name>` after.
  keys = converter.TASK_FEATURES.keys() - modalities
  keys |= converter.MODEL_FEATURES.keys() - {f'user_{m}' for m in modalities}
  assert len(keys) > 2
  free = {
      key
      for key in keys
      if not table_description.is_taken(key.removeprefix('user_'))
  }
  assert not free
  if split == 'train':
    batch = next(dataset.train_batches(batch_size=8, seed=0))
  else:
    batch = next(dataset.eval_batches(split=split, batch_size=8))
  assert batch.keys() == converter.MODEL_FEATURES.keys()
