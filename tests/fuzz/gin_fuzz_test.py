"""Fuzzes gin files and what --gin.NAME=VALUE sets."""

import gin
from hypothesis import strategies as st
import pytest

import fuzzing
from user_llm import gin_text
from user_llm import gin_utils
from user_llm import optimizers  # Loaded here, not within a case's time.
from user_llm import train

_FILE = b'''# A run.
from __gin__ import dynamic_registration
from user_llm import optimizers
from user_llm import train
include 'nothing.gin'

NUM_STEPS = 20_000
LEARNING_RATE = 1e-3
DIMS = (1, 2, {'a': [None, True]})
MESH = %gin.REQUIRED
train.train.num_steps = %NUM_STEPS
train.train.init_from = %DIMS
train.train.optimizer = @big/optimizers.AdamW()
train.train.trainable = ('.*',  # All.
                         '!x')
big/optimizers.AdamW.learning_rate = %LEARNING_RATE
optimizers.AdamW:
  warmup_steps = 3
  clip_norm = 1.5
'''
_OVERRIDES = (
    'NUM_STEPS=100', 'LEARNING_RATE=3e-4', "DIMS=[1, 'x']", 'MESH=None',
    'big/optimizers.AdamW.warmup_steps=7', 'NUM_STEPS=%SEED',
    'train.train.optimizer=@optimizers.AdamW()', 'X=1', '=', '',
)


@pytest.fixture(name='load')
def _load(tmp_path):
  (tmp_path / 'nothing.gin').write_text('SEED = 3\n')
  path = tmp_path / 'x.gin'

  def load(data, overrides=('MESH=1',)):
    path.write_bytes(data)
    gin.clear_config()
    gin_utils.load_config([str(path)], overrides, [str(tmp_path)])
    gin_text.model_section(gin_utils.config_text())

  yield load
  gin.clear_config()


def test_the_original_is_read(load):
  load(_FILE)
  assert gin.query_parameter('%NUM_STEPS') == 20_000
  assert gin_utils.configured(train.train)
  assert gin_utils.configured(optimizers.AdamW)(learning_rate=1.0).clip_norm == 1.5


@fuzzing.fuzz(fuzzing.edited(_FILE), quick=500, slow=6_000)
def test_files(case, load):
  with fuzzing.only_mistakes():
    load(case)


@fuzzing.fuzz(
    st.lists(
        fuzzing.edited(*(o.encode() for o in _OVERRIDES)).map(
            lambda data: data.decode('utf-8', 'surrogateescape')
        )
        | st.builds(
            '{}={}'.format,
            st.sampled_from(['NUM_STEPS', 'DIMS', 'MESH', 'x/NUM_STEPS']),
            st.sampled_from(fuzzing.NASTY) | st.text(max_size=12),
        ),
        max_size=2,
    ),
    quick=300,
    slow=6_000,
)
def test_overrides(case, load):
  with fuzzing.only_mistakes():
    load(_FILE, ['MESH=1', *case])
