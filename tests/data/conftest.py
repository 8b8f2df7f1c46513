"""A dataset of any task on the tiny data."""

import pytest


@pytest.fixture
def make(tiny_dataset, tiny_vocabulary):
  """Makes the `Dataset` of a task; histories of 8 events."""
  from user_llm.data import pipeline  # Late: it imports TensorFlow.

  def _make(task: str, **settings) -> pipeline.Dataset:
    if task != 'events':
      settings.setdefault('vocabulary', tiny_vocabulary)
    if task == 'review_generation':
      settings.setdefault('text_length', 60)
    settings.setdefault('history_length', 8)
    settings.setdefault('data_dir', tiny_dataset)
    return pipeline.Dataset(task=task, **settings)

  return _make
