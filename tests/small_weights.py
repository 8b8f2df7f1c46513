"""A tiny decoder with random weights, for runs that start from some."""

import jax
import numpy as np

from user_llm import partitioning
from user_llm.data import vocabulary as vocabulary_lib
from user_llm.models import decoder
from user_llm.models import decoder_config
from user_llm.pretrained import exporting


def write(path: str, vocabulary: str) -> str:
  """Writes a Llama of 4 layers, width 16, with a tokenizer; returns `path`."""
  config = decoder_config.DecoderConfig(
      vocab_size=vocabulary_lib.vocab_size(path=vocabulary),
      num_layers=4, embed_dim=16, num_heads=2, num_kv_heads=1, head_dim=8,
      mlp_dim=24,
  )
  boxed = jax.eval_shape(
      decoder.Decoder(config).init,
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, 1), np.int32),
  )['params']
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: (0.3 * rng.normal(size=x.shape)).astype(np.float32),
      partitioning.unbox(boxed),
  )
  exporting.export(params, config, path, tokenizer_from=vocabulary)
  return path
