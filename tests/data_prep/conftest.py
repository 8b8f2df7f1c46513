"""data_prep runs from the checkout."""

from collections.abc import Callable
import pathlib
import sys

import pytest

import small_sources

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))


@pytest.fixture
def movielens_dir(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
  """Makes the tiny set in a layout: movielens_dir('csv', 'ml-25m')."""

  def make(layout: str = 'csv', name: str = 'raw') -> pathlib.Path:
    directory = tmp_path / name
    directory.mkdir()
    small_sources.LAYOUTS[layout](directory)
    return directory

  return make
