"""Tiny seeded models of each family, and their logits by Hugging Face.

    pip install transformers torch  # Not needed by the tests.
    python tests/pretrained/make_fixtures.py

Writes tiny/<name>/: config.json and the weights as `transformers` saves them,
and expected.npz: `tokens` i64[2, 24] and their `logits` f32[2, 24, V]. Weights
are in bfloat16, computation is in float32. Every feature of a family shows: the
windows are shorter than the text, the caps are reached, norms are not one.

Made with transformers 5.23.0, torch 2.13.0.
"""

import pathlib

import numpy as np
import torch
import transformers

_OUTPUT = pathlib.Path(__file__).parent / 'tiny'
_LENGTH = 24
_SIZES = dict(
    vocab_size=80,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
)
_LLAMA3_ROPE = dict(
    rope_type='llama3',
    rope_theta=500_000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
# Sizes of Gemma: the heads are wider than the model, queries have a scale.
_GEMMA = dict(
    head_dim=8, query_pre_attn_scalar=5, sliding_window=6,
    num_key_value_heads=1,
)
_MODELS = {
    'llama2': ('llama', dict(num_key_value_heads=4)),
    'llama3': ('llama', dict(
        head_dim=16, tie_word_embeddings=True, rope_parameters=_LLAMA3_ROPE,
    )),
    'mistral': ('mistral', dict(sliding_window=6, head_dim=6)),
    'qwen2': ('qwen2', dict(
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type='default', rope_theta=1e6),
    )),
    'qwen3': ('qwen3', dict(
        head_dim=10,
        rope_parameters=dict(rope_type='default', rope_theta=1e6),
    )),
    'gemma2': ('gemma2', dict(
        **_GEMMA, num_hidden_layers=5, attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    )),
    'gemma3': ('gemma3_text', dict(
        **_GEMMA, num_hidden_layers=7,
        layer_types=['sliding_attention'] * 5 + ['full_attention']
        + ['sliding_attention'],
        rope_parameters=dict(
            sliding_attention=dict(rope_type='default', rope_theta=100.0),
            full_attention=dict(
                rope_type='linear', rope_theta=10_000.0, factor=4.0
            ),
        ),
    )),
    # Heads that are no power of two, and llama.cpp's llama with tied weights.
    'smollm2': ('llama', dict(
        hidden_size=36, num_attention_heads=9, num_key_value_heads=3,
        tie_word_embeddings=True,
        rope_parameters=dict(rope_type='default', rope_theta=100_000.0),
    )),
}
_SHARDED = 'qwen3'


def _randomise(model: torch.nn.Module) -> None:
  for name, value in model.named_parameters():
    noise = torch.randn(value.shape)
    if name.endswith('norm.weight'):
      # Gemma's norms are at zero at first, the others' at one.
      noise = value.detach() + 0.3 * noise
    elif 'embed_tokens' not in name and value.ndim == 2:
      noise = noise * 1.5 / value.shape[1] ** 0.5
    value.data = noise.to(torch.bfloat16).to(torch.float32)


def main() -> None:
  for seed, (name, (kind, fields)) in enumerate(_MODELS.items()):
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(kind, **{**_SIZES, **fields})
    config._attn_implementation = 'eager'  # Others leave out the soft cap.
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    _randomise(model)
    tokens = torch.randint(3, config.vocab_size, (2, _LENGTH))
    with torch.no_grad():
      logits = model(tokens).logits
    folder = _OUTPUT / name
    shard = {'max_shard_size': '8KB'} if name == _SHARDED else {}
    model.to(torch.bfloat16).save_pretrained(folder, **shard)
    (folder / 'generation_config.json').unlink(missing_ok=True)
    np.savez_compressed(
        folder / 'expected.npz', tokens=tokens.numpy(), logits=logits.numpy()
    )
    print(name, f'std of the logits {logits.std():.2f}')


if __name__ == '__main__':
  main()
