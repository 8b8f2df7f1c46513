"""From layers one by one, as files have them, to the decoder's stacks."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from user_llm.models import decoder_config


def stack_layers(
    per_layer: Sequence[Any], config: decoder_config.DecoderConfig
) -> dict[str, Any]:
  """Parameters of single layers as a `Decoder` of this config holds them.

  Args:
    per_layer: Of each `DecoderLayer`, numpy arrays, the first layer first.
    config: Says which layers are scanned together.

  Returns:
    The entries 'groups' and, where there is a remainder, 'rest'.

  Example: 5 layers with `cross_attention.every=2` give groups/layers_0 (layers
  0 and 2), groups/layers_1 (1 and 3) and rest/layers_0 (4).
  """
  every = config.cross_attention.every
  scanned = every * config.num_groups
  stack = lambda *xs: np.stack(xs)
  params = {
      'groups': {
          f'layers_{i}': jax.tree.map(stack, *per_layer[i:scanned:every])
          for i in range(every)
      }
  }
  if config.num_rest:
    rest = per_layer[scanned:]
    params['rest'] = {f'layers_{i}': layer for i, layer in enumerate(rest)}
  return params
