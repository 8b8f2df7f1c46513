"""Bits per byte against numpy, of the base too, and by the command line."""

import dataclasses
import json
import math

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run
import small_user_llm

from user_llm import evaluator as evaluator_lib
from user_llm import gin_utils
from user_llm import main as main_lib
from user_llm import partitioning
from user_llm import perplexity_evaluator
from user_llm import train_state
from user_llm.data import held_out_text
from user_llm.models import decoder as decoder_lib
from user_llm.models import lora

_TEXT = 'Which film will be next? I saw a film of 1957, and then another one.'
_LM = '''
include 'models/decoder_small.gin'
include 'runs/pretrain_lm.gin'
DECODER_LAYERS = 1
DECODER_DIM = 16
DECODER_HEADS = 2
DECODER_KV_HEADS = 1
DECODER_HEAD_DIM = 8
DECODER_MLP_DIM = 16
SCAN_UNROLL = 1
NUM_STEPS = 200
BATCH_SIZE = 8
LEARNING_RATE = 1e-2
'''
_USER_LLM = (
    'from __gin__ import dynamic_registration\n'
    'from user_llm import answer_evaluator\n'
    'from user_llm import restore\n' + small_user_llm.USER_LLM
    + 'INIT_FROM = [@decoder/restore.InitFrom()]\n'
    'TEST_EVALUATORS = [@favourite/test/answer_evaluator.AnswerEvaluator()]\n'
    'BEAM_SIZE = 10\n'
)


@pytest.fixture(name='clean', autouse=True)
def _clean(monkeypatch, tmp_path):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'jax'))
  monkeypatch.setenv('TF_CPP_MIN_LOG_LEVEL', '2')
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture(name='models', scope='module')
def _models(tmp_path_factory, tiny_dataset, tiny_vocabulary):
  """Folder of two workdirs and a text; each workdir's parts, parameters."""
  folder = tmp_path_factory.mktemp('knowledge')
  (folder / 'text.txt').write_text(_TEXT)
  macros = dict(DATA_DIR=tiny_dataset, VOCABULARY=tiny_vocabulary)
  base = small_user_llm.write_workdir(folder / 'lm', _LM, **macros)
  run = small_user_llm.write_workdir(
      folder / 'run', _USER_LLM, **macros,
      DECODER_CHECKPOINT=str(folder / 'lm'),
  )
  return folder, base, run


@pytest.fixture(name='text')
def _text(models, tiny_vocabulary):
  return held_out_text.HeldOutText(
      path=str(models[0] / 'text.txt'), vocabulary=tiny_vocabulary,
      window_tokens=8, stride_tokens=5,
  )


def _by_hand(config, params, text):
  """-log p of each window's scored tokens: one at a time, in numpy."""
  nats = []
  module = decoder_lib.Decoder(config)
  for inputs, targets, weights in zip(*(
      text.windows[k][:, 0]
      for k in ('input_tokens', 'target_tokens', 'loss_weights')
  )):
    logits = module.apply(
        {'params': params}, inputs[None],
        method=lambda m, x: m.logits(m(x)[0]),
    )
    logits = np.asarray(logits[0, :, : config.vocab_size], np.float64)
    logp = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    nats.append(-(logp[np.arange(len(targets)), targets] * weights).sum())
  return np.array(nats)


def _one_device():
  return jax.make_mesh(
      (1, 1, 1), partitioning.MESH_AXES, devices=jax.devices()[:1],
      axis_types=(jax.sharding.AxisType.Auto,) * 3,
  )


class _Source:
  """Other parameters of the decoder but for the cross-attention."""

  prefix = 'decoder'

  def __init__(self, params):
    flat = train_state.flatten({'decoder': params})
    self.values = {k: v for k, v in flat.items() if 'cross' not in k}

  def load(self, params, identity):
    assert not identity and self.values.keys() < params.keys()
    return self.values


def test_bits_per_byte_by_hand_at_any_batch_size(models, text):
  _, (_, base), (parts, params) = models
  config = parts['objective'].model.decoder
  nats, before = (
      _by_hand(config, p['decoder'], text) for p in (params, base)
  )
  num_bytes = len(_TEXT.encode())
  assert len(nats) > 4
  for batch_size, mesh in (
      (3, _one_device()), (8, partitioning.MeshConfig().make()),
  ):
    evaluator = perplexity_evaluator.PerplexityEvaluator(
        text=text, base=[_Source(base['decoder'])], batch_size=batch_size
    )
    evaluator.check(parts['objective'], 8)
    everywhere = jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec()
    )
    params = jax.device_put(params, everywhere)
    found = evaluator.evaluate(parts['objective'], params, mesh)
    rows = {k: dict(v) for k, v in found.models.items()}
    for row, metric, want in (
        ('user_llm', 'bits_per_byte', nats),
        ('user_llm', 'bits_added', nats - before),
        ('base_decoder', 'bits_per_byte', before),
    ):
      got = rows[row].pop(metric).mean
      np.testing.assert_allclose(
          got, want.sum() / math.log(2) / num_bytes, rtol=1e-4
      )
      kept = found.per_example.metrics(row)[metric]
      assert len(kept) == len(nats)
      np.testing.assert_allclose(kept.mean(), got, rtol=1e-6)
    assert not any(rows.values())
    assert found.num_examples == len(nats)
    assert found.task == 'text_held_out_text'
    assert found.split_fingerprint == text.fingerprint
    assert f'of {num_bytes} bytes' in found.protocol
    brief = evaluator.evaluate(parts['objective'], params, mesh, full=False)
    assert list(brief.models) == ['user_llm']


def test_lora_is_applied_and_the_base_has_none(models, text):
  _, (parts, base), _ = models
  plain = parts['objective']
  objective, params = _with_lora(plain, base)
  mesh = _one_device()
  evaluator = perplexity_evaluator.PerplexityEvaluator(
      text=text, base=[_Source(base['decoder'])]
  )
  found = evaluator.evaluate(objective, params, mesh).models
  decoder = params['decoder']
  for row, of_row in (
      ('base_decoder', base['decoder']),
      ('user_llm', lora.merge(decoder, objective.model.decoder.lora)),
  ):
    want = evaluator.evaluate(plain, {'decoder': of_row}, mesh, full=False)
    np.testing.assert_allclose(
        found[row]['bits_per_byte'],
        want.models['user_llm']['bits_per_byte'], rtol=1e-4,
    )
  assert abs(found['user_llm']['bits_added'].mean) > 0.01


def _with_lora(plain, base):
  """A language model with random updates, and its parameters."""
  decoder = dataclasses.replace(
      plain.model.decoder, lora=lora.LoraConfig(rank=2)
  )
  objective = dataclasses.replace(
      plain, model=dataclasses.replace(plain.model, decoder=decoder)
  )
  tokens = np.zeros((1, 1, 4), np.int32)
  boxed = jax.eval_shape(
      objective.init, jax.random.key(0), {'input_tokens': tokens}
  )
  rng = np.random.default_rng(1)
  values = train_state.flatten(base)
  params = {
      path: values[path] if path in values
      else jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32)
      for path, x in train_state.flatten(partitioning.unbox(boxed)).items()
  }
  assert any('lora_b' in path for path in params)
  return objective, train_state.unflatten(params)


def test_documented_error():
  found = perplexity_evaluator.bits_per_byte(
      np.log(2) * np.array([4, 2, 2]), np.array([2, 2, 1]), 16
  )
  assert found.mean == pytest.approx(0.5)
  spread = np.std([0.8, -1.2, 0.4], ddof=1)
  assert found.stderr == pytest.approx(spread * math.sqrt(3) / 16)


def test_the_error_is_the_spread_of_many_texts():
  """Of texts drawn anew: sd of their bits per byte."""
  rng = np.random.default_rng(0)
  found = [
      perplexity_evaluator.bits_per_byte(
          rng.gamma(4.0, 1.0, 30), np.full(30, 9), 1000
      )
      for _ in range(2000)
  ]
  spread = np.std([f.mean for f in found])
  assert np.mean([f.stderr for f in found]) == pytest.approx(spread, rel=0.05)


def test_a_run_of_another_kind_is_refused(models, text, tiny_dataset):
  objective = models[2][0]['objective']
  evaluator = perplexity_evaluator.PerplexityEvaluator(text=text)
  with pytest.raises(ValueError, match='needs an OBJECTIVE with a decoder'):
    evaluator.check(small_run.objective(tiny_dataset), 8)
  text.__dict__['tokens'] = np.array([5, 99_999])
  with pytest.raises(ValueError, match='token 99999 and the decoder has'):
    evaluator.check(objective, 8)


def test_joined():
  assert evaluator_lib.joined(groups=([1, 2], (), [3])) == [1, 2, 3]


@pytest.mark.parametrize(
    ['run', 'tasks'], [('contextualize', 2), ('pretrain_lm', 0)]
)
def test_training_measures_it_beside_the_tasks(
    run, tasks, tiny_dataset, tiny_vocabulary
):
  values = dict(
      DATA_DIR=tiny_dataset, VOCABULARY=tiny_vocabulary, TEXT_FILE='text.txt'
  )
  if run == 'contextualize':
    values |= dict(ENCODER_CHECKPOINT='a', DECODER_CHECKPOINT='b')
  gin_utils.load_config(
      [f'experiments/quickstart_synthetic/{run}.gin', 'data/knowledge.gin'],
      [f'{name}="{value}"' for name, value in values.items()],
  )
  bindings = gin_utils.parsed_bindings()
  assert bindings['train.train.evaluators'] == '@evaluator.joined()'
  *others, last = gin_utils.configured(evaluator_lib.joined)()
  assert len(others) == tasks
  assert (last.text.path, last.text.max_bytes) == ('text.txt', 32_768)
  assert len(last.base) == tasks  # INIT_FROM: encoder and decoder.


def test_the_command_measures_it_beside_the_tasks(models, text, capsys):
  folder, (_, base), (parts, _) = models
  flags = [
      'evaluate', f'--workdir={folder / "run"}',
      '--gin_file=data/knowledge.gin',
      f'--gin.TEXT_FILE="{folder / "text.txt"}"',
      '--gin.TEXT_WINDOW=8', '--gin.TEXT_STRIDE=5',
  ]
  assert main_lib.main(flags) == 0
  assert 'base_decoder' in capsys.readouterr().out
  tasks = sorted(path.parent.name for path in folder.glob('run/eval/*/3.json'))
  assert tasks == ['text_held_out_text', 'tiny_favourite_genre']
  found = json.loads(
      (folder / 'run/eval/text_held_out_text/3.json').read_text()
  )
  want = _by_hand(
      parts['objective'].model.decoder, base['decoder'], text
  ).sum() / math.log(2) / len(_TEXT)
  assert found['models']['base_decoder']['bits_per_byte'][
      'mean'
  ] == pytest.approx(want, rel=1e-4)
  assert found['split_rule'] == 'windows of 8 by 5'
