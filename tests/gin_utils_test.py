"""Tests of strict gin parsing."""

import pathlib

import gin
import pytest

from user_llm import gin_text
from user_llm import gin_utils

_LIBRARY = '''
import dataclasses

@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
  width: int = 8
  rate: float = 0.5

def train(*, workdir, model=None, steps=1, learning_rate=1.0, name='', dims=(),
          flag=False, limit=None):
  return dict(workdir=workdir, model=model, steps=steps, name=name, dims=dims,
              learning_rate=learning_rate, flag=flag)
'''
_RUN = '''
from __gin__ import dynamic_registration
import gin_stub_library

NUM_STEPS = 20_000
LEARNING_RATE = 1e-3
NAME = 'base'
DIMS = (1, 2)
FLAG = False
WIDTH = 16
MAX_LENGTH = None
gin_stub_library.train.limit = %MAX_LENGTH
gin_stub_library.train.model = @big/gin_stub_library.Encoder()
gin_stub_library.train.steps = %NUM_STEPS
gin_stub_library.train.learning_rate = %LEARNING_RATE
gin_stub_library.train.name = %NAME
gin_stub_library.train.dims = %DIMS
gin_stub_library.train.flag = %FLAG
big/gin_stub_library.Encoder.width = %WIDTH
'''


@pytest.fixture(name='folder')
def _folder(tmp_path, monkeypatch):
  (tmp_path / 'gin_stub_library.py').write_text(_LIBRARY)
  (tmp_path / 'run.gin').write_text(_RUN)
  monkeypatch.syspath_prepend(str(tmp_path))
  stubs = ('gin_stub_library', 'broken_stub')
  monkeypatch.setattr('user_llm.gin_trust.PACKAGES', stubs)
  gin.clear_config()
  yield tmp_path
  gin.clear_config()


def _run(folder: pathlib.Path, *overrides: str, gin_file: str = 'run.gin'):
  gin_utils.load_config([gin_file], overrides, [str(folder)])
  import gin_stub_library

  return gin_utils.configured(gin_stub_library.train)(workdir='w')


def test_overrides_reach_the_function(folder):
  result = _run(
      folder,
      'NUM_STEPS=100',
      'LEARNING_RATE=3',
      'NAME="other text"',
      'DIMS=[3]',
      'FLAG=True',
      'WIDTH=32',
      'MAX_LENGTH=7',
      'big/gin_stub_library.Encoder.rate=0.25',
  )
  assert result['steps'] == 100
  assert result['learning_rate'] == 3.0
  assert isinstance(result['learning_rate'], float)
  assert result['name'] == 'other text'
  assert result['dims'] == (3,)
  assert result['flag'] is True
  assert result['model'].width == 32
  assert result['model'].rate == 0.25


@pytest.mark.parametrize(
    ['text', 'value'],
    [
        ("['item']", ('item',)),
        ("[('genre', 1.0), ['rating', None]]", (('genre', 1.0), ('rating', None))),
        ('[]', ()),
        ("({'a': [1]},)", ({'a': [1]},)),
    ],
)
def test_lists_become_tuples(folder, text, value):
  """In a file, where no other value tells the type, and in what is saved."""
  (folder / 'lists.gin').write_text(_RUN + f'DIMS = {text}\n')
  assert _run(folder, gin_file='lists.gin')['dims'] == value
  assert f'DIMS = {value!r}' in gin_utils.config_text()


def test_a_list_of_references_stays(folder):
  (folder / 'lists.gin').write_text(
      _RUN + 'DIMS = [@gin_stub_library.Encoder()]\n'
  )
  (encoder,) = _run(folder, gin_file='lists.gin')['dims']
  assert encoder.width == 8


def test_a_reference_can_be_overridden(folder):
  result = _run(
      folder, 'gin_stub_library.train.model=@gin_stub_library.Encoder'
  )
  assert result['model']().width == 8


@pytest.mark.parametrize(
    ['override', 'message'],
    [
        ('NUM_STEP=10', 'defines the macro NUM_STEP. Did you mean NUM_STEPS'),
        ('small/gin_stub_library.Encoder.width=9', "the scope 'small'"),
        ('bigg/gin_stub_library.Encoder.width=9', 'Did you mean big?'),
        ('gin_stub_library.train.step=3', 'mean gin_stub_library.train.steps'),
        ('gin_stub_library.trian.steps=3', 'gin_stub_library.train.steps'),
        ('LEARNING_RATE="1e-3"', '--gin.LEARNING_RATE=1e-3'),
        ('NUM_STEPS=1e5', '--gin.NUM_STEPS=100000'),
        ('NUM_STEPS=0.5', 'of type float, but'),
        ('gin_stub_library.train.steps=1e5', '=100000'),
        ('NUM_STEPS=True', 'of type bool'),
        ('FLAG=1', 'FLAG=True'),
        ('NAME=3', "--gin.NAME='\"3\"'"),
        ('NAME=some/path', "--gin.NAME='\"some/path\"'"),
        ('DIMS=3', 'of type int'),
        ('NUM_STEPS', 'NAME=VALUE'),
        ('=3', 'NAME=VALUE'),
    ],
)
def test_a_wrong_override_is_refused(folder, override, message):
  with pytest.raises(ValueError) as error:
    _run(folder, override)
  assert message in str(error.value)
  assert f'--gin.{override}' in str(error.value)


def test_missing_file(folder):
  with pytest.raises(ValueError, match='rum.gin: no such file.*mean run.gin?'):
    _run(folder, gin_file='rum.gin')


@pytest.mark.parametrize(
    ['lines', 'message'],
    [
        ("include 'nothing.gin'", 'nothing.gin'),
        ('NUM_STEPS = = 3', 'run.gin'),
        ('gin_stub_library.train.foo = 3', "parameter named 'foo'"),
        ('gin_stub_library.train.name = %NAMES', 'Did you mean NAME?'),
        ('import no_such_module', 'no_such_module'),
        ('nothing.train.x = 3', 'nothing'),
        ('NUM_STEP = 3', 'run.gin: `NUM_STEP = 3`: no gin file reads the macro '),
        ('NUM_STEP = 3', 'NUM_STEP. Did you mean NUM_STEPS'),
        ('bgi/gin_stub_library.Encoder:\n  width = 3', "the scope 'bgi'"),
        ('bgi/gin_stub_library.Encoder.width = 3', "scope 'bgi'. Did you mean"),
    ],
)
def test_malformed_file(folder, lines, message):
  (folder / 'run.gin').write_text(_RUN + lines + '\n')
  with pytest.raises(ValueError) as error:
    _run(folder)
  assert message in str(error.value)
  assert 'Macros' not in str(error.value)


def test_required_macro(folder):
  text = _RUN.replace("'base'", '%gin.REQUIRED')
  text = text.replace('MAX_LENGTH', 'PATH').replace('None', '%gin.REQUIRED')
  (folder / 'run.gin').write_text(text)
  with pytest.raises(ValueError) as error:
    _run(folder)
  assert 'NAME, PATH. Add --gin.NAME=... --gin.PATH=...' in str(error.value)
  gin.clear_config()
  assert _run(folder, 'NAME="x"', 'PATH="y"')['name'] == 'x'


def test_a_folder_here_does_not_hide_an_include(folder, monkeypatch):
  (folder / 'gin' / 'runs').mkdir(parents=True)
  (folder / 'run.gin').rename(folder / 'gin' / 'runs' / 'run.gin')
  (folder / 'gin' / 'x.gin').write_text("include 'runs/run.gin'\nWIDTH = 3\n")
  (folder / 'runs').mkdir()
  monkeypatch.chdir(folder)
  assert _run(folder / 'gin', gin_file='x.gin')['model'].width == 3


def test_a_bug_of_a_module_keeps_its_own_error(folder):
  (folder / 'broken_stub.py').write_text('undefined_name\n')
  (folder / 'run.gin').write_text(_RUN + 'import broken_stub\n')
  with pytest.raises(NameError):
    _run(folder)


def test_a_function_without_bindings(folder):
  (folder / 'empty.gin').write_text('')

  def train():
    pass

  gin_utils.load_config([str(folder / 'empty.gin')])
  with pytest.raises(ValueError, match='--gin_file=runs/train.gin'):
    gin_utils.configured(train)


def test_saved_configs_parse_again(folder):
  _run(folder, 'WIDTH=5')
  config = gin_utils.config_text()
  assert 'gin_stub_library.train.steps' in gin_utils.operative_config_text()
  (folder / 'saved.gin').write_text(config)
  gin.clear_config()
  assert _run(folder, gin_file='saved.gin')['model'].width == 5


_CONFIG = '''
from __gin__ import dynamic_registration
from user_llm.models import user_encoder
import user_llm.objectives.next_event as objective
from user_llm import train

# Macros:
# =====
SIZES = {WIDTH: 1}
WIDTH = 16
STEPS = 5
# Parameters for user_encoder.UserEncoder:
user_encoder.UserEncoder.width = %WIDTH
user_encoder.UserEncoder.names = \\
    ('item',
     'genre')
# Parameters for objective.NextEvent:
a/objective.NextEvent.heads = 2
train.train.steps = %STEPS
'''


def test_model_section():
  assert gin_text.model_section(_CONFIG) == [
      'a/user_llm.objectives.next_event.NextEvent.heads = 2',
      "user_llm.models.user_encoder.UserEncoder.names = ('item', 'genre')",
      'user_llm.models.user_encoder.UserEncoder.width = 16',
  ]


def test_only_a_changed_model_is_refused():
  gin_text.check_same_model(
      _CONFIG, _CONFIG.replace('STEPS = 5', 'STEPS = 6'), 'W'
  )
  with pytest.raises(ValueError) as error:
    gin_text.check_same_model(
        _CONFIG, _CONFIG.replace('WIDTH = 16', 'WIDTH = 32'), 'W'
    )
  assert '-user_llm.models.user_encoder.UserEncoder.width = 16' in str(error)
  assert '+user_llm.models.user_encoder.UserEncoder.width = 32' in str(error)
  assert 'names' not in str(error.value)


def test_another_seed_or_batch_size_is_refused():
  config = '''
from user_llm import train
SEED = 3
train.train.seed = %SEED
train.train.batch_size = 8
train.train.hang_secs = 10
'''
  gin_text.check_same_model(config, config.replace('= 10', '= 20'), 'W')
  for old, new, name in (('= 3', '= 4', 'seed'), ('= 8', '= 16', 'batch_size')):
    with pytest.raises(ValueError, match=rf'\+.*train.train.{name} {new}'):
      gin_text.check_same_model(config, config.replace(old, new), 'W')
