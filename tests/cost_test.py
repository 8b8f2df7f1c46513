"""What a request costs: counts against formulas, tables, contexts, errors."""

import csv
import json

import gin
import pytest

from user_llm import cost
from user_llm import cost_model
from user_llm import main
from user_llm.data import history_prompts
from user_llm.models import cross_attention
from user_llm.models import decoder_config
from user_llm.models import readers
from user_llm.models import resampler
from user_llm.models import user_encoder
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm
from user_llm.report import costs

_LAYERS, _DIM, _HEADS, _HEAD_DIM, _MLP, _VOCAB = 2, 128, 4, 32, 512, 1000


@pytest.fixture(autouse=True)
def _clear_gin():
  gin.clear_config()
  yield
  gin.clear_config()


def _decoder(**kwargs):
  return decoder_config.DecoderConfig(
      vocab_size=_VOCAB, num_layers=_LAYERS, embed_dim=_DIM, num_heads=_HEADS,
      num_kv_heads=_HEADS, head_dim=_HEAD_DIM, mlp_dim=_MLP,
      cross_attention=cross_attention.CrossAttentionConfig(
          every=2, num_heads=2, num_kv_heads=2, head_dim=8
      ),
      **kwargs,
  )


def _with_user(**kwargs):
  encoder = user_encoder.UserEncoderConfig(
      schema=cost_model.movielens_schema(), num_layers=1, embed_dim=16,
      num_heads=2, mlp_dim=32, item_embed_dim=8, feature_embed_dim=8,
  )
  return user_llm.UserLLMConfig(
      decoder=_decoder(), user_encoder=encoder, **kwargs
  )


def _request(model, num_events, num_tokens, new_tokens=(4,)):
  stacked = conditioned_lm.ConditionedLM(model=model)
  batch = cost_model.make_batch(model, num_events, num_tokens)
  params = cost_model.make_params(stacked, batch)
  return cost_model.Request(*stacked.unstacked(params), batch, new_tokens)


def _matmul_flops(num_tokens, num_keys):
  """Of the layers for some tokens, and of the head for one."""
  width = _HEADS * _HEAD_DIM
  weights = 4 * _DIM * width + 3 * _DIM * _MLP
  attention = 2 * width * num_keys
  return 2 * (_LAYERS * num_tokens * (weights + attention) + _DIM * 1024)


def test_flops_of_a_text_prompt_are_those_of_its_products():
  request = _request(user_llm.UserLLMConfig(decoder=_decoder()), 0, 96)
  prefill = _matmul_flops(96, 96)
  assert request.prefill_flops() == prefill
  # A step sees the prompt and the room for what is added.
  steps = 3 * _matmul_flops(1, 96 + 3)
  assert request.request_flops(4) == prefill + steps
  assert request.llm_tokens() == 96
  assert request.kv_bytes() == 2 * _LAYERS * 96 * _HEADS * _HEAD_DIM * 4
  masked = 4 * _LAYERS * _HEADS * _HEAD_DIM * 96 * 95 / 2
  assert request.masked_flops() == masked


def test_a_user_costs_no_tokens_and_a_soft_prompt_some():
  perceiver = resampler.ResamplerConfig(
      num_layers=1, num_latents=5, embed_dim=16, num_heads=2, mlp_dim=16
  )
  looked_at = _request(_with_user(resampler=perceiver), 20, 7)
  assert looked_at.llm_tokens() == 7
  # The decoder's of the prompt; and of one cross-attention, the latents'.
  own = 2 * _LAYERS * 7 * _HEADS * _HEAD_DIM
  assert looked_at.kv_bytes() == 4 * (own + 2 * 5 * 2 * 8)
  soft = readers.SoftPromptConfig(num_task_tokens=3)
  before = _request(_with_user(resampler=perceiver, reader=soft), 20, 7)
  assert before.llm_tokens() == 3 + 5 + 7
  assert before.prefill_flops() > looked_at.prefill_flops()


@pytest.mark.parametrize(
    ['context_length', 'held'],
    [(0, (200, 2500)), (4096, (200, 2500)), (1024, (75, 957))],
)
def test_what_a_context_holds(context_length, held):
  found = history_prompts.fitting(200, 2500, 32, context_length, 64)
  assert found == held


def _run(tmp_path, text, **kwargs):
  models = {
      'text': user_llm.UserLLMConfig(decoder=text),
      'every event': _with_user(),
  }
  return cost.cost(
      output=str(tmp_path / 'cost'), models=models, rounds=1, new_tokens=(2,),
      question_tokens=4, **kwargs,
  )


def test_a_prompt_that_does_not_fit_is_said_to(tmp_path, capsys):
  prompts = history_prompts.GivenPrompts(events=(5, 10), tokens=(24, 44))
  _run(tmp_path, _decoder(context_length=30), prompts=prompts)
  out = capsys.readouterr().out
  # 28 are left, 4 of them the question's; an event has 4.
  lines = ' '.join(out.split())
  assert 'The context of 30 tokens holds 6 of 10 events' in lines
  with (tmp_path / 'cost' / 'cost.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['llm_tokens'] for row in rows] == ['24', '4', '28', '4']
  assert float(rows[1]['ratios/LLM tokens']) == 6
  document = json.loads((tmp_path / 'cost' / 'cost.json').read_text())
  assert document['facts']['context_length'] == 30
  for name in ('cost.png', 'cost.svg'):
    assert (tmp_path / 'cost' / name).stat().st_size > 5_000


@pytest.mark.parametrize(
    ['kwargs', 'message'],
    [
        (dict(tokens=(24,)), 'one number for each of EVENTS'),
        (dict(tokens=(24, 9)), 'at least a token an event'),
    ],
)
def test_bad_prompts(tmp_path, kwargs, message):
  with pytest.raises(ValueError, match=message):
    prompts = history_prompts.GivenPrompts(events=(5, 10), **kwargs)
    _run(tmp_path, _decoder(), prompts=prompts)
  assert not (tmp_path / 'cost').exists()


def test_a_context_without_room_for_the_question(tmp_path):
  prompts = history_prompts.GivenPrompts(events=(5,), tokens=(24,))
  with pytest.raises(ValueError, match='does not hold QUESTION_TOKENS=4'):
    _run(tmp_path, _decoder(context_length=5), prompts=prompts)


def test_ratios_and_labels():
  assert costs.times(78.125) == '78.1x' and costs.times(123.4) == '123x'


def test_the_command(tmp_path, tiny_weights, capsys):
  out = tmp_path / 'cost'
  code = main.main([
      'cost', f'--output={out}', f'--gin.WEIGHTS="{tiny_weights}"',
      '--gin.EVENTS=(6,)', '--gin.PROMPT_TOKENS=(60,)', '--gin.ROUNDS=1',
      '--gin.NEW_TOKENS=(2,)',
  ])
  assert code == 0
  text = capsys.readouterr().out
  assert 'User-LLM, Perceiver, soft prompt' in text and 'text prompt' in text
  assert (out / 'operative_config.cost.gin').is_file()


def test_an_unknown_family(tmp_path, capsys):
  (tmp_path / 'config.json').write_text('{"model_type": "rwkv"}')
  out = tmp_path / 'cost'
  code = main.main(['cost', f'--output={out}', f'--gin.WEIGHTS="{tmp_path}"'])
  assert code == 2
  assert "'rwkv' is not a family" in capsys.readouterr().err
  assert not out.exists()


def test_no_weights(tmp_path, capsys):
  out = tmp_path / 'cost'
  code = main.main(['cost', f'--output={out}', '--gin.WEIGHTS="none.gguf"'])
  assert code == 2
  assert 'none.gguf' in capsys.readouterr().err
  assert not out.exists()
