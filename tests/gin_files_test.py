"""Every gin file parses, and says in its header what is there to be set."""

import copy
import pathlib
import re

import gin
import jax
import pytest

from user_llm import gin_utils
from user_llm import partitioning
from user_llm import train
from user_llm import train_state
from user_llm import trainer
from user_llm.models import lora

_ROOT = gin_utils.DEFAULT_SEARCH_PATH
_FILES = sorted(p.relative_to(_ROOT).as_posix() for p in _ROOT.rglob('*.gin'))
_RUNS = [name for name in _FILES if name.startswith('runs/')]
_EXPERIMENTS = [name for name in _FILES if name.startswith('experiments/')]
_SYNTHETIC = 'experiments/quickstart_synthetic/contextualize.gin'
_TRAININGS = [
    name for name in _RUNS
    if re.search(
        r"include 'runs/(train|pretrain_\w+)\.gin'", (_ROOT / name).read_text()
    )
]
_STRATEGIES = [name for name in _FILES if name.startswith('strategies/')]
_NUMBERS = {'NUM_STEPS': 200, 'BATCH_SIZE': 8, 'LEARNING_RATE': 0.001}


@pytest.fixture(autouse=True)
def _clear_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def _parse(gin_file: str) -> dict[str, str]:
  gin_utils.set_search_paths([str(_ROOT)])
  gin.parse_config_file(str(_ROOT / gin_file))
  return gin_utils.parsed_bindings()


def _value(macro: str):
  """What a macro of the parsed files stands for, built."""
  return copy.deepcopy(gin.query_parameter(f'%{macro}'))


def _boxed_params():
  """Shapes of the parameters, and of a batch."""
  objective, batch_size = _value('OBJECTIVE'), _value('BATCH_SIZE')
  batch = trainer.select_batch(
      _value('DATASET').batch_spec('train', batch_size), objective.batch_keys
  )
  return jax.eval_shape(objective.init, jax.random.key(0), batch), batch


def _required(bindings: dict[str, str]) -> set[str]:
  return {key for key, value in bindings.items() if value == '%gin.REQUIRED'}


def _references(bindings: dict[str, str]) -> set[str]:
  return set(re.findall(r'%([A-Z]\w*)', ' '.join(bindings.values())))


def _header_list(
    gin_file: str, title: str, word: str = r'\b[A-Z][A-Z0-9_]+\b'
) -> list[str]:
  """The macros that the comment at a file's top lists after a title."""
  lines = []
  for line in (_ROOT / gin_file).read_text().splitlines():
    if not line.startswith('#'):
      break
    lines.append(line.removeprefix('#').strip())
  match = re.search(rf'{title}: (.*?)\.(\s|$)', ' '.join(lines))
  assert match, f'{gin_file}: the header has no "{title}: ...".'
  return re.findall(word, match[1])


def _include_depth(path: pathlib.Path) -> int:
  includes = re.findall(r"^include '(.*)'", path.read_text(), re.MULTILINE)
  return max((1 + _include_depth(_ROOT / name) for name in includes), default=0)


def test_there_are_files():
  assert _RUNS and _EXPERIMENTS


@pytest.mark.parametrize('gin_file', _FILES)
def test_parses(gin_file):
  assert _parse(gin_file)
  assert _include_depth(_ROOT / gin_file) <= 2


@pytest.mark.parametrize('gin_file', _RUNS)
def test_a_run_lists_its_macros(gin_file):
  bindings = _parse(gin_file)
  assert set(_header_list(gin_file, 'Required')) == _required(bindings)
  listed = set(_header_list(gin_file, 'Commonly overridden'))
  assert listed <= {*bindings, *_references(bindings)}


@pytest.mark.parametrize('gin_file', _TRAININGS)
def test_a_training_is_complete_with_the_files_that_it_comes_after(gin_file):
  for name in _header_list(gin_file, 'Comes after', r'[\w/]+\.gin'):
    _parse(name)
  bindings = _parse(gin_file)
  assert _references(bindings) <= bindings.keys()
  assert set(_header_list(gin_file, 'Required')) == _required(bindings)


@pytest.mark.parametrize('gin_file', _EXPERIMENTS)
def test_an_experiment_is_complete(gin_file):
  bindings = _parse(gin_file)
  macros = {key for key in bindings if '.' not in key and '/' not in key}
  assert _references(bindings) <= macros
  overrides = [f'{name}="set"' for name in _required(bindings)]
  gin.clear_config()
  gin_utils.load_config([gin_file], overrides)


@pytest.mark.parametrize('gin_file', _EXPERIMENTS)
def test_an_experiment_can_be_used(gin_file):
  own = _parse(gin_file)
  macros = {key for key in own if '.' not in key and '/' not in key}
  for mode in ('evaluate', 'infer', 'embed', 'export'):
    if f'runs/{mode}.gin' in _RUNS:
      bindings = _parse(f'runs/{mode}.gin')
  # A macro that nothing uses is most often a misspelt one.
  assert macros <= _references(bindings)


@pytest.fixture(name='build')
def _build(tiny_dataset, tiny_vocabulary, tiny_weights):
  """Checks shapes, shardings and what trains, on the tiny dataset.

  Its result gives the parameters by path, and the shapes of a training batch.
  """
  tiny = {
      'DATA_DIR': tiny_dataset,
      'VOCABULARY': tiny_vocabulary,
      'WEIGHTS': tiny_weights,
  }

  def build(*gin_files, overrides=()):
    gin.clear_config()
    for gin_file in gin_files:
      bindings = _parse(gin_file)
    required = _required(bindings)
    values = {
        name: tiny.get(name, 'set') for name in required - _NUMBERS.keys()
    }
    values['SPLIT_RULE'] = 'leave_one_out'
    numbers = [f'{name}={_NUMBERS[name]}' for name in required & _NUMBERS.keys()]
    texts = [f'{name}="{value}"' for name, value in values.items()]
    gin.clear_config()
    gin_utils.load_config(gin_files, [*texts, *numbers, *overrides])
    return _check_built()

  return build


def _check_built():
  objective, batch_size = _value('OBJECTIVE'), _value('BATCH_SIZE')
  boxed, batch = _boxed_params()
  mesh = partitioning.MeshConfig(data=4, model=2).make()
  partitioning.param_shardings(boxed, mesh)
  params = partitioning.unbox(boxed)
  loss = jax.eval_shape(objective.loss, params, batch, jax.random.key(0))
  assert loss.total.shape == loss.weight.shape == ()
  trainable, _ = train_state.split(params, _value('TRAINABLE'))
  optimizer = _value('OPTIMIZER').make(_value('NUM_STEPS'))
  jax.eval_shape(optimizer.init, trainable)
  flat = train_state.flatten(params)
  for source in _value('INIT_FROM'):
    assert any(path.startswith(f'{source.prefix}/') for path in flat)
  for name in ('EVALUATORS', 'TEST_EVALUATORS'):
    train.check_evaluators(_value(name), objective, batch_size)
  return flat, batch


@pytest.mark.parametrize('gin_file', _EXPERIMENTS)
def test_an_experiment_builds(gin_file, build):
  build(gin_file)


@pytest.mark.parametrize('strategy', _STRATEGIES)
@pytest.mark.parametrize(
    'change',
    [
        'models/no_resampler.gin',
        'models/decoder_pretrained.gin',
        'models/soft_prompt.gin',
    ],
)
def test_a_strategy_fits_what_is_changed_in_an_experiment(
    strategy, change, build
):
  build(_SYNTHETIC, change, strategy)
  model = _value('OBJECTIVE').model
  is_pretrained = 'pretrained' in change
  assert model.decoder.num_layers == (4 if is_pretrained else 2)
  assert (model.decoder.lora == lora.LoraConfig()) == ('lora' in strategy)


@pytest.mark.parametrize(
    ['strategy', 'trains'],
    [
        ('full', {'user_encoder', 'projection', 'soft_prompt', 'decoder'}),
        ('enc', {'user_encoder', 'projection', 'soft_prompt'}),
        ('proj', {'projection', 'soft_prompt'}),
    ],
)
def test_what_trains_with_a_soft_prompt(strategy, trains, build):
  build(
      _SYNTHETIC, 'models/no_resampler.gin', 'models/soft_prompt.gin',
      f'strategies/{strategy}.gin',
  )
  params = partitioning.unbox(_boxed_params()[0])
  trainable, _ = train_state.split(params, _value('TRAINABLE'))
  assert set(trainable) == trains
  assert not any('cross_attention' in p for p in train_state.flatten(params))


def test_a_soft_prompt_comes_after_the_run(tmp_path, build):
  """Before it, the run's own LEARNING_RATE_SCALES would stay: that raises."""
  path = tmp_path / 'wrong.gin'
  path.write_text(
      f"include 'models/soft_prompt.gin'\ninclude '{_SYNTHETIC}'\n"
  )
  with pytest.raises(ValueError, match='cross_attention.* decide no parameter'):
    build(path)


def test_late_fusion_is_a_macro(build):
  files = ['models/user_encoder.gin', 'runs/pretrain_encoder.gin']
  early, _ = build(*files)
  late, _ = build(*files, overrides=['FUSION=@user_encoder.LateFusion()'])
  assert 'user_encoder/blocks_5/mlp/up/kernel' in early
  found = late['user_encoder/transformers/blocks_5/mlp/up/kernel']
  assert found.shape == (3, 128, 512)


def test_gru4rec_builds(build):
  files = ['models/user_encoder.gin', 'runs/pretrain_gru4rec.gin']
  params, _ = build(*files)
  assert params['user_encoder/gru_0/state/gates/kernel'].shape == (128, 384)
  assert not any('gru_1' in path or 'blocks' in path for path in params)
  assert _value('TEST_EVALUATORS')[0].row == 'gru4rec'
  one_layer = ['ENCODER_LAYERS=1']
  contextualised, _ = build(
      'models/user_encoder.gin', 'models/gru4rec.gin', 'models/last_event.gin',
      'data/next_item.gin', 'models/decoder_small.gin',
      'runs/contextualize.gin', overrides=one_layer,
  )
  encoder = {path for path in params if path.startswith('user_encoder/')}
  assert {
      path for path in contextualised if path.startswith('user_encoder/')
  } == encoder


def test_a_dual_encoder_builds(build):
  files = ['models/user_encoder.gin', 'runs/pretrain_dual_encoder.gin']
  params, batch = build(*files)
  assert {path.split('/')[0] for path in params} == {
      'user_encoder', 'item_tower', 'log_scale'
  }
  fixed, _ = build(*files, overrides=['LEARNED_TEMPERATURE=False'])
  assert params.keys() - fixed.keys() == {'log_scale'}
  assert 'target_item' in batch and 'target_genre' not in batch


def test_sampled_softmax_comes_after_the_run(build):
  files = ['models/user_encoder.gin', 'runs/pretrain_encoder.gin']
  full, _ = build(*files)
  overrides = ['NUM_NEGATIVES=7', 'NEGATIVES_POWER=1.0']
  sampled, _ = build(*files, 'models/sampled_softmax.gin', overrides=overrides)
  assert sampled.keys() == full.keys()
  candidates = _value('OBJECTIVE').item_softmax
  assert candidates.draw(jax.random.key(0)).shape == (7,)
  assert candidates.power == 1
  assert candidates.features.num_items == _value('DATASET').schema['item'].size


@pytest.mark.parametrize('has_user', [True, False])
@pytest.mark.parametrize('prompt_tokens', [0, 40])
def test_embeddings_and_text_prompts_are_settings_of_the_same_files(
    has_user, prompt_tokens, build
):
  """Embeddings alone, with a short text, a text alone (and the question)."""
  files = ['models/decoder_small.gin', 'data/next_item_and_favourite.gin']
  if has_user:
    files = ['models/user_encoder.gin', 'models/last_event.gin', *files]
    files.append('runs/contextualize.gin')
  else:
    files.append('runs/text_prompt.gin')
  overrides = [f'PROMPT_TOKENS={prompt_tokens}']
  if prompt_tokens:
    overrides.append('PROMPT_EVENTS=2')
  params, batch = build(*files, overrides=overrides)
  parts = {path.split('/')[0] for path in params}
  assert ('user_encoder' in parts) == ('user_item' in batch) == has_user
  asking = _value('DATASET').datasets[0].asking
  assert asking.longest_prompt == prompt_tokens + asking.questions.longest
  assert batch['input_tokens'].shape[-1] > asking.longest_prompt


def test_a_text_prompt_before_reviews(build):
  """It is in TEXT_LENGTH, and takes nothing of what may be written."""
  params, batch = build(
      'models/decoder_small.gin', 'data/next_item_and_review.gin',
      'runs/text_prompt.gin',
      overrides=['PROMPT_TOKENS=40', 'TEXT_LENGTH=160', 'REVIEW_TOKENS=50'],
  )
  assert {path.split('/')[0] for path in params} == {'decoder'}
  assert 'user_item' not in batch
  assert batch['input_tokens'].shape[-1] == 160
  review = _value('DATASET').datasets[1]
  questions = review.asking.questions
  assert review.asking.longest_prompt == 40 + questions.longest
  evaluator = _value('TEST_EVALUATORS')[1]
  assert evaluator.generation.max_tokens == 50
