"""Decoder families: what Hugging Face's config.json says of a `DecoderConfig`.

Every reader of weights gives its header in the words of config.json, so that a
family is described once. Families differ by the entries of `_FEATURES`, and by
how far their layers look.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from user_llm import user_errors
from user_llm.models import decoder_config
from user_llm.models import positions as positions_lib

_GEMMA = dict(post_norms=True, scaled_embeddings=True)
_FEATURES: Mapping[str, Mapping[str, bool]] = {
    'llama': {},
    'mistral': {},
    'qwen2': dict(qkv_bias=True),
    'qwen3': dict(qk_norm=True),
    'gemma2': _GEMMA,
    'gemma3_text': dict(**_GEMMA, qk_norm=True),
}
# What a published config.json may leave out.
_GEMMA_DEFAULTS = dict(
    tie_word_embeddings=True,
    hidden_act='gelu_pytorch_tanh',
    head_dim=256,
    query_pre_attn_scalar=256,
)
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    'llama': {},
    'mistral': dict(sliding_window=4096),
    'qwen2': {},
    'qwen3': dict(head_dim=128),
    'gemma2': dict(
        **_GEMMA_DEFAULTS, sliding_window=4096, sliding_window_pattern=2,
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
    ),
    'gemma3_text': dict(
        **_GEMMA_DEFAULTS, sliding_window=4096, sliding_window_pattern=6,
        rope_theta=1_000_000.0, rope_local_base_freq=10_000.0,
    ),
}
_ARCHITECTURES = {
    'llama': 'LlamaForCausalLM',
    'mistral': 'MistralForCausalLM',
    'qwen2': 'Qwen2ForCausalLM',
    'qwen3': 'Qwen3ForCausalLM',
    'gemma2': 'Gemma2ForCausalLM',
    'gemma3_text': 'Gemma3ForCausalLM',
}
_ACTIVATIONS = {'silu': jax.nn.silu, 'gelu_pytorch_tanh': jax.nn.gelu}
# Keys of config.json that are sizes, and that are numbers.
_MAY_BE_NULL = (
    'num_key_value_heads', 'head_dim', 'max_position_embeddings',
    'sliding_window', 'sliding_window_pattern',
)
_SIZES = (
    'vocab_size', 'num_hidden_layers', 'hidden_size', 'num_attention_heads',
    'intermediate_size', *_MAY_BE_NULL,
)
_NUMBERS = (
    'rms_norm_eps', 'rope_theta', 'rope_local_base_freq',
    'query_pre_attn_scalar', 'attn_logit_softcapping',
    'final_logit_softcapping',
)
_MAX_SIZE = 2**40
_MAX_LAYERS = 10_000
_FULL, _SLIDING = 'full_attention', 'sliding_attention'


def decoder_fields(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Fields of the `DecoderConfig` that a config.json describes.

  Args:
    raw: Its content.
    where: The file, for errors.

  Raises:
    ValueError: an unknown family, or something that the decoder cannot do.
  """
  family = raw.get('model_type')
  if not isinstance(family, str) or family not in _FEATURES:
    raise ValueError(
        f'{where}: model_type {family!r} is not a family that can be read '
        f'({", ".join(_FEATURES)}).'
    )
  raw = {**_DEFAULTS[family], **raw}
  _check_sizes(raw, where)
  act = raw.get('hidden_activation') or raw.get('hidden_act') or 'silu'
  for key in ('attention_bias', 'mlp_bias', 'use_bidirectional_attention'):
    if raw.get(key):
      raise ValueError(f'{where}: {key}={raw[key]} is not supported.')
  try:
    num_heads = raw['num_attention_heads']
    head_dim = raw.get('head_dim') or raw['hidden_size'] // num_heads
    query_scalar = float(raw.get('query_pre_attn_scalar') or head_dim)
    return dict(
        vocab_size=raw['vocab_size'],
        num_layers=raw['num_hidden_layers'],
        embed_dim=raw['hidden_size'],
        num_heads=num_heads,
        num_kv_heads=raw.get('num_key_value_heads') or num_heads,
        head_dim=head_dim,
        mlp_dim=raw['intermediate_size'],
        activation=_ACTIVATIONS[act],
        tied_embeddings=bool(raw.get('tie_word_embeddings', False)),
        positions=_positions(raw, where),
        query_scalar=0.0 if query_scalar == head_dim else query_scalar,
        attention_softcap=float(raw.get('attn_logit_softcapping') or 0),
        logits_softcap=float(raw.get('final_logit_softcapping') or 0),
        context_length=raw.get('max_position_embeddings') or 0,
        norm_epsilon=raw['rms_norm_eps'],
        **_FEATURES[family],
    )
  except KeyError as error:
    raise ValueError(
        f'{where}: {error} is missing, or unknown as an activation.'
    ) from None
  except (TypeError, AttributeError, ValueError, ArithmeticError) as error:
    if user_errors.is_user_error(error):
      raise
    raise ValueError(f'{where}: a value is of another kind ({error}).') from None


def _check_sizes(raw: Mapping[str, Any], where: str) -> None:
  """Raises ValueError for numbers that are none, before they are used."""
  for key in _SIZES:
    # What is missing is told of later; some may be null.
    value = raw.get(key, None if key in _MAY_BE_NULL else 1)
    is_size = type(value) is int and 0 < value <= _MAX_SIZE
    if not is_size and not (value is None and key in _MAY_BE_NULL):
      raise ValueError(f'{where}: {key} is {value!r}, not a size.')
  if (num_layers := raw.get('num_hidden_layers') or 0) > _MAX_LAYERS:
    raise ValueError(
        f'{where}: {num_layers} layers are more than {_MAX_LAYERS}.'
    )
  for key in _NUMBERS:
    value = raw.get(key)
    if value is not None and (
        type(value) not in (int, float) or not 0 <= value <= _MAX_SIZE
    ):
      raise ValueError(f'{where}: {key} is {value!r}, not a number that fits.')


def norm_offset(raw: Mapping[str, Any]) -> float:
  """Gemma's files have the difference of the norms' scales from one."""
  return 1.0 if str(raw.get('model_type')).startswith('gemma') else 0.0


def hf_config(config: decoder_config.DecoderConfig) -> dict[str, Any]:
  """A config.json for weights of this decoder; `decoder_fields` inverted.

  Raises:
    ValueError: no family is such a decoder.
  """
  features = ('qkv_bias', 'qk_norm', 'post_norms', 'scaled_embeddings')
  mine = {name: True for name in features if getattr(config, name)}
  # Layers that look everywhere, and those that have a window.
  full = next((p for p in config.positions if not p.window), None)
  local = next((p for p in config.positions if p.window), None)
  families = [name for name, has in _FEATURES.items() if has == mine]
  if families == ['llama', 'mistral']:
    families = ['mistral' if local else 'llama']
  names = {f: name for name, f in _ACTIVATIONS.items()}
  raw = dict(
      model_type=families[0] if families else None,
      vocab_size=config.vocab_size,
      num_hidden_layers=config.num_layers,
      hidden_size=config.embed_dim,
      num_attention_heads=config.num_heads,
      num_key_value_heads=config.num_kv_heads,
      head_dim=config.head_dim,
      intermediate_size=config.mlp_dim,
      hidden_act=names.get(config.activation),
      hidden_activation=names.get(config.activation),
      tie_word_embeddings=config.tied_embeddings,
      rms_norm_eps=config.norm_epsilon,
      rope_theta=(full or local).base,
      rope_scaling=_scaling_config((full or local).scaling),
  )
  if config.context_length:
    raw['max_position_embeddings'] = config.context_length
  if families != ['llama']:
    pattern = config.positions
    raw |= dict(
        sliding_window=local.window if local else None,
        use_sliding_window=local is not None,
        layer_types=[
            _SLIDING if pattern[i % len(pattern)].window else _FULL
            for i in range(config.num_layers)
        ],
    )
  if config.post_norms:
    raw |= dict(
        # Hugging Face's libraries refuse a float.
        query_pre_attn_scalar=int(config.query_scalar or config.head_dim),
        attn_logit_softcapping=config.attention_softcap or None,
        final_logit_softcapping=config.logits_softcap or None,
    )
  if families == ['gemma3_text'] and local:
    raw['rope_local_base_freq'] = local.base
  fields = decoder_fields(raw, 'Export') if families else {}
  odd = differences(fields, config) if families else list(mine)
  if families == ['mistral'] and full:
    odd.append('positions')  # Its layers all have the window.
  if odd:
    raise ValueError(
        f'No family of {", ".join(_FEATURES)} is a decoder with '
        + ', '.join(f'{name}={getattr(config, name)!r}' for name in odd)
        + '; it cannot be exported.'
    )
  return {**raw, 'architectures': [_ARCHITECTURES[families[0]]]}


def differences(
    fields: Mapping[str, Any], config: decoder_config.DecoderConfig
) -> list[str]:
  """Names of the fields in which a decoder is another."""
  return [n for n in fields if fields[n] != getattr(config, n)]


def _positions(
    raw: Mapping[str, Any], where: str
) -> tuple[positions_lib.PositionsConfig, ...]:
  """The shortest pattern of layers that repeats."""
  kinds = {kind: _kind(raw, kind, where) for kind in (_FULL, _SLIDING)}
  types = _layer_types(raw)
  unknown = set(types) - set(kinds)
  if unknown or len(types) != raw['num_hidden_layers']:
    raise ValueError(
        f'{where}: layer_types names {len(types)} layers of '
        f'{raw["num_hidden_layers"]}, unknown ones: {sorted(unknown)}.'
    )
  of_layers = [kinds[kind] for kind in types]
  for period in range(1, len(of_layers)):
    if all(k == of_layers[i % period] for i, k in enumerate(of_layers)):
      return tuple(of_layers[:period])
  return tuple(of_layers)


def _layer_types(raw: Mapping[str, Any]) -> Sequence[str]:
  num_layers = raw['num_hidden_layers']
  if raw.get('layer_types'):
    return [str(kind) for kind in raw['layer_types']]
  if not raw.get('sliding_window'):
    return [_FULL] * num_layers
  if 'sliding_window_pattern' in raw:
    every = raw['sliding_window_pattern']
    return [
        _SLIDING if (i + 1) % every else _FULL for i in range(num_layers)
    ]
  if raw['model_type'].startswith('qwen'):
    first = raw.get('max_window_layers', num_layers)
    if not raw.get('use_sliding_window'):
      first = num_layers
    return [_SLIDING if i >= first else _FULL for i in range(num_layers)]
  return [_SLIDING if raw['model_type'] == 'mistral' else _FULL] * num_layers


def _kind(
    raw: Mapping[str, Any], kind: str, where: str
) -> positions_lib.PositionsConfig:
  """Layers of one type, from the older or the newer way to say it."""
  has_local = kind == _SLIDING and 'rope_local_base_freq' in raw
  base = raw.get(
      'rope_local_base_freq' if has_local else 'rope_theta', 10_000.0
  )
  rope = raw.get('rope_parameters')
  if rope is None:
    rope = {} if has_local else raw.get('rope_scaling') or {}
  rope = rope.get(kind, rope)
  return positions_lib.PositionsConfig(
      window=(raw.get('sliding_window') or 0) if kind == _SLIDING else 0,
      base=float(rope.get('rope_theta', base)),
      scaling=_scaling(rope, where),
  )


def _scaling(rope: Mapping[str, Any], where: str) -> Any:
  kind = rope.get('rope_type') or rope.get('type') or 'default'
  if kind == 'default':
    return positions_lib.NoScaling()
  if kind == 'linear':
    return positions_lib.LinearScaling(factor=float(rope['factor']))
  if kind == 'llama3':
    return positions_lib.Llama3Scaling(
        factor=float(rope['factor']),
        low_freq_factor=float(rope['low_freq_factor']),
        high_freq_factor=float(rope['high_freq_factor']),
        original_length=int(rope['original_max_position_embeddings']),
    )
  raise ValueError(
      f'{where}: rotary positions of type {kind!r} are not supported (default, '
      'linear, llama3).'
  )


def _scaling_config(scaling: Any) -> dict[str, Any] | None:
  if isinstance(scaling, positions_lib.LinearScaling):
    return {'rope_type': 'linear', 'factor': scaling.factor}
  if isinstance(scaling, positions_lib.Llama3Scaling):
    return {
        'rope_type': 'llama3',
        'factor': scaling.factor,
        'low_freq_factor': scaling.low_freq_factor,
        'high_freq_factor': scaling.high_freq_factor,
        'original_max_position_embeddings': scaling.original_length,
    }
  return None
