"""What a training step of a User-LLM takes on pods that are not here.

    python benchmarks/pods.py    # pip install 'user_llm[tpu]' for the TPUs

Decoders of the sizes of Gemma 3 1B and Llama 3.1 8B, the paper's encoder and
Perceiver, cross-attention before every 4th layer, REMAT: 256 users
of 200 events with 4 questions and answers of 32 tokens. All devices are on the
axis `data`, which shards batch and weights. Prints a table in Markdown; nothing
is allocated: a step is compiled from shapes.
"""

import argparse
import sys
import time

import jax
import numpy as np

from user_llm import dry_run
from user_llm import optimizers
from user_llm import partitioning
from user_llm import topologies
from user_llm import trainer as trainer_lib
from user_llm.data import schema
from user_llm.models import cross_attention
from user_llm.models import decoder_config
from user_llm.models import resampler
from user_llm.models import user_encoder
from user_llm.models import user_llm
from user_llm.objectives import conditioned_lm

_USERS, _EVENTS, _TARGETS, _TOKENS = 256, 200, 4, 32
_DECODERS = {
    'Gemma 3 1B': dict(
        vocab_size=262144, num_layers=26, embed_dim=1152, num_heads=4,
        num_kv_heads=1, head_dim=256, mlp_dim=6912, qk_norm=True,
        post_norms=True, every=4,
    ),
    'Llama 3.1 8B': dict(
        vocab_size=128256, num_layers=32, embed_dim=4096, num_heads=32,
        num_kv_heads=8, head_dim=128, mlp_dim=14336, tied_embeddings=False,
        every=4,
    ),
}
_TRAINABLE = {
    'full': ('.*',),
    'enc': (
        'user_encoder',
        '(resampler|projection|soft_prompt|decoder/.*cross_attention)',
    ),
}
_TOPOLOGIES = ('v5e-16', 'v5p-64', 'h100-8')


def _objective(every: int, **sizes: int) -> conditioned_lm.ConditionedLM:
  events = schema.EventSchema(
      name='movielens',
      modalities=tuple(
          schema.Modality(name=name, size=size)
          for name, size in (('item', 27279), ('genre', 1343), ('rating', 11))
      ),
  )
  return conditioned_lm.ConditionedLM(
      model=user_llm.UserLLMConfig(
          decoder=decoder_config.DecoderConfig(
              **sizes,
              remat=True,
              cross_attention=cross_attention.CrossAttentionConfig(
                  every=every, num_heads=8, num_kv_heads=8, head_dim=64
              ),
          ),
          user_encoder=user_encoder.UserEncoderConfig(schema=events),
          resampler=resampler.ResamplerConfig(num_layers=6),
      )
  )


def _batch_spec() -> dict[str, jax.ShapeDtypeStruct]:
  ints = lambda *shape: jax.ShapeDtypeStruct(shape, np.int32)
  text = (_USERS, _TARGETS, _TOKENS)
  names = ('user_item', 'user_genre', 'user_rating', 'positions', 'segment_ids')
  return {
      **{name: ints(_USERS, _EVENTS) for name in names},
      'user_mask': jax.ShapeDtypeStruct((_USERS, _EVENTS), np.bool_),
      'history_end': ints(*text[:2]),
      'input_tokens': ints(*text),
      'target_tokens': ints(*text),
      'loss_weights': jax.ShapeDtypeStruct(text, np.float32),
  }


def _row(name: str, strategy: str, topology: str) -> str:
  start = time.monotonic()
  target = topologies.get(topology)
  mesh = partitioning.MeshConfig().make(topologies.devices(topology))
  with jax.set_mesh(mesh):
    trainer = trainer_lib.Trainer(
        objective=_objective(**_DECODERS[name]),
        optimizer=optimizers.AdamW(learning_rate=1e-3, warmup_steps=1).make(9),
        mesh=mesh,
        trainable=_TRAINABLE[strategy],
    )
  found = dry_run.plan(trainer, _batch_spec())
  gib = lambda size: f'{size / 2**30:.2f}'
  secs = found.flops / (target.num_devices * target.peak_tflops * 1e12)
  sent = ', '.join(
      f'{kind} {traffic.count} ({gib(traffic.num_bytes)})'
      for kind, traffic in found.collectives.items()
  )
  print(f'{time.monotonic() - start:.0f} s', file=sys.stderr)
  cells = (
      name, strategy, topology,
      gib(sum(found.state.values())), gib(found.temporaries),
      f'{gib(found.peak)} of {target.hbm_gib:.0f}'
      + ('' if found.peak <= target.hbm_gib * 2**30 else ' (too much)'),
      f'{found.flops / 1e12:,.0f}', f'{1e3 * secs:,.0f}', sent,
  )
  return f'| {" | ".join(cells)} |'


def main() -> None:
  argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
  ).parse_args()
  topologies.prepare('h100-8')  # Eight CPU devices; TPUs need none.
  print(
      '| decoder | trains | devices | state, GiB | temporaries | a device holds '
      '| TFLOP a step | ms at the peak | sent a device: operations (GiB) |'
  )
  print('|' + '---|' * 9)
  for name in _DECODERS:
    for strategy in _TRAINABLE:
      for topology in _TOPOLOGIES:
        try:
          print(_row(name, strategy, topology), flush=True)
        except ValueError as error:
          print(error, file=sys.stderr)


if __name__ == '__main__':
  main()
