"""Speed of a training step of the encoder on one CPU thread, at SASRec's shape.

    python benchmarks/encoder_training.py [--data_dir DIR]

Counts supervised positions a CPU-second of the whole process, the input
pipeline's threads included. Where PyTorch is installed, SASRec's network with
the same full softmax runs beside it. The contenders take turns, so that what
else the machine does meets all of them; the medians are printed. Without
--data_dir the data are random, of the size of SASRec's ML-1M file.
"""

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
    '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
)
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

# pylint: disable=g-import-not-at-top
import jax
import jax.numpy as jnp
import numpy as np

from user_llm import optimizers
from user_llm import partitioning
from user_llm import trainer as trainer_lib
from user_llm.data import pipeline
from user_llm.models import user_encoder
from user_llm.objectives import next_event
from user_llm.objectives import objective as objective_lib

try:
  import torch
except ImportError:
  torch = None

_LENGTH = 200
_WIDTH = 50
_LAYERS = 2
_DROPOUT = 0.2
_USERS, _ITEMS, _EVENTS = 6_040, 3_416, 999_611

# Trains for a number of steps and returns how many positions had a target.
Run = Callable[[int], int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _WithoutSoftmax(next_event.NextEvent):
  """The encoder alone: any loss that needs every output."""

  def loss(
      self,
      params: objective_lib.Params,
      batch: objective_lib.Batch,
      rng: jax.Array | None,
  ) -> objective_lib.Loss:
    x_BLD = user_encoder.UserEncoder(self.encoder).apply(
        {'params': params['user_encoder']},
        *user_encoder.inputs(batch, self.encoder),
        rngs={'dropout': rng},
    )
    weight = jnp.sum(batch['target_item'] > 0).astype(jnp.float32)
    return objective_lib.Loss(jnp.sum(jnp.sin(x_BLD)), weight, {})


def _random_data(directory: pathlib.Path) -> pathlib.Path:
  """A prepared dataset of random events, as many as in SASRec's file."""
  rng = np.random.default_rng(0)
  weights = rng.lognormal(0, 1.0, _USERS)
  lengths = 18 + (_EVENTS - 18 * _USERS) * weights / weights.sum()
  users = np.repeat(np.arange(_USERS), lengths.astype(int)) + 1
  odds = (1.0 + np.arange(_ITEMS)) ** -0.7
  items = rng.choice(_ITEMS, len(users), p=odds / odds.sum()) + 1
  items[:_ITEMS] = np.arange(_ITEMS) + 1
  pairs = directory / 'pairs.txt'
  np.savetxt(pairs, np.stack([users, items], axis=1), '%d')
  output = directory / 'prepared'
  subprocess.run(
      [
          *(sys.executable, '-m', 'data_prep', 'sequences'),
          *('--input', pairs, '--output', output, '--name', 'random_events'),
      ],
      check=True,
      stdout=subprocess.DEVNULL,
  )
  return output


def _ours(
    data_dir: str,
    batch_size: int,
    packed: bool,
    objective_class: type[next_event.NextEvent] = next_event.NextEvent,
) -> Run:
  """Our pipeline and trainer."""
  dataset = pipeline.Dataset(
      data_dir=data_dir,
      task='events',
      history_length=_LENGTH,
      modalities=('item',),
      packed=packed,
  )
  objective = objective_class(
      encoder=user_encoder.UserEncoderConfig(
          schema=dataset.schema,
          num_layers=_LAYERS,
          embed_dim=_WIDTH,
          num_heads=1,
          mlp_dim=_WIDTH,
          dropout_rate=_DROPOUT,
      )
  )
  trainer = trainer_lib.Trainer(
      objective=objective,
      optimizer=optimizers.AdamW(learning_rate=1e-3).make(10_000),
      mesh=partitioning.MeshConfig().make(),
  )
  spec = trainer_lib.select_batch(
      dataset.batch_spec('train', batch_size), objective.batch_keys
  )
  state = trainer.init_state(spec)
  step_fn = trainer.compile_step(state, spec)
  batches = dataset.train_batches(batch_size=batch_size, seed=0)

  def run(num_steps: int) -> int:
    nonlocal state
    positions = 0
    for _ in range(num_steps):
      batch = next(batches)
      positions += np.count_nonzero(batch['target_item'])
      state, _ = step_fn(
          state, trainer.device_batch({key: batch[key] for key in spec})
      )
    jax.block_until_ready(state)
    return positions

  return run


def _peer_rows(
    data_dir: str, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(inputs, targets) i64[B, L] without end: a user's last events a row."""
  log = pipeline.Dataset(
      data_dir=data_dir, task='events', history_length=_LENGTH
  ).log
  bounds = log.offsets
  items = np.zeros((len(bounds) - 1, _LENGTH + 1), np.int64)
  for row, start, end in zip(items, bounds, bounds[1:]):
    kept = log.values['item'][start : end - 2][-_LENGTH - 1 :]
    row[: len(kept)] = kept
  rng = np.random.default_rng(0)
  while True:
    order = rng.permutation(len(items))
    for start in range(0, len(order) - batch_size + 1, batch_size):
      part = items[order[start : start + batch_size]]
      yield np.where(part[:, 1:] > 0, part[:, :-1], 0), part[:, 1:]


def _peer(data_dir: str, batch_size: int) -> Run:
  """SASRec (arXiv 1808.09781) with a full softmax, in plain PyTorch."""
  torch.set_num_threads(1)
  torch.manual_seed(0)

  class Block(torch.nn.Module):

    def __init__(self):
      super().__init__()
      self.norm_1 = torch.nn.LayerNorm(_WIDTH)
      self.attention = torch.nn.MultiheadAttention(
          _WIDTH, 1, _DROPOUT, batch_first=True
      )
      self.norm_2 = torch.nn.LayerNorm(_WIDTH)
      self.conv_1 = torch.nn.Conv1d(_WIDTH, _WIDTH, 1)
      self.conv_2 = torch.nn.Conv1d(_WIDTH, _WIDTH, 1)
      self.dropout = torch.nn.Dropout(_DROPOUT)

    def forward(self, x, mask):
      query = self.norm_1(x)
      x = query + self.attention(
          query, x, x, attn_mask=mask, need_weights=False
      )[0]
      x = self.norm_2(x)
      y = self.dropout(self.conv_1(x.transpose(1, 2))).relu()
      return x + self.dropout(self.conv_2(y)).transpose(1, 2)

  class SASRec(torch.nn.Module):

    def __init__(self):
      super().__init__()
      self.items = torch.nn.Embedding(_ITEMS + 1, _WIDTH, padding_idx=0)
      self.positions = torch.nn.Embedding(_LENGTH, _WIDTH)
      self.dropout = torch.nn.Dropout(_DROPOUT)
      self.blocks = torch.nn.ModuleList(Block() for _ in range(_LAYERS))
      self.norm = torch.nn.LayerNorm(_WIDTH)

    def forward(self, items):
      x = self.items(items) * _WIDTH**0.5 + self.positions.weight
      x = self.dropout(x)
      mask = torch.ones(_LENGTH, _LENGTH, dtype=torch.bool).triu(1)
      for block in self.blocks:
        x = block(x, mask)
      return self.norm(x)

  model = SASRec()
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
  rows = _peer_rows(data_dir, batch_size)

  def run(num_steps: int) -> int:
    positions = 0
    for _ in range(num_steps):
      inputs, targets = map(torch.from_numpy, next(rows))
      valid = targets > 0
      logits = model(inputs)[valid] @ model.items.weight.T
      loss = torch.nn.functional.cross_entropy(logits, targets[valid])
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
      positions += int(valid.sum())
    return positions

  return run


def _measure(
    runs: dict[str, Run], num_repeats: int, num_steps: int
) -> dict[str, list[float]]:
  """Positions a CPU-second of each contender, each turn."""
  for run in runs.values():
    run(2)
  rates = {name: [] for name in runs}
  for _ in range(num_repeats):
    for name, run in runs.items():
      start = time.process_time()
      positions = run(num_steps)
      rates[name].append(positions / (time.process_time() - start))
  return rates


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data_dir', help='a prepared dataset')
  parser.add_argument('--batch_size', type=int, default=128)
  parser.add_argument('--num_steps', type=int, default=4, help='a turn')
  parser.add_argument('--num_repeats', type=int, default=7)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as directory:
    data_dir = args.data_dir or str(_random_data(pathlib.Path(directory)))
    ours, unpacked = 'packed rows', 'padded rows'
    encoder, peer = 'packed rows, no softmax', 'PyTorch SASRec'
    runs = {
        ours: _ours(data_dir, args.batch_size, True),
        unpacked: _ours(data_dir, args.batch_size, False),
        encoder: _ours(data_dir, args.batch_size, True, _WithoutSoftmax),
    }
    if torch is not None:
      runs[peer] = _peer(data_dir, args.batch_size)
    rates = _measure(runs, args.num_repeats, args.num_steps)
  medians = {name: statistics.median(rate) for name, rate in rates.items()}
  print(
      f'{args.data_dir or "random events"}: 1 thread, batch '
      f'{args.batch_size} x {_LENGTH}, width {_WIDTH}, {_LAYERS} layers, '
      f'{_ITEMS} items\n'
      f'{"":24} {"positions/CPU-s":>15} {"lowest":>8} {"highest":>8} '
      f'{"x":>6}'
  )
  for name, rate in rates.items():
    print(
        f'{name:24} {medians[name]:15,.0f} {min(rate):8,.0f} '
        f'{max(rate):8,.0f} {medians[ours] / medians[name]:6.2f}'
    )
  share = 1 - medians[ours] / medians[encoder]
  print(f'The item softmax takes {share:.0%} of a step with packed rows.')
  if torch is None:
    print('PyTorch is not installed: no peer. pip install torch')


if __name__ == '__main__':
  main()
