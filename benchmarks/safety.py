"""What safety costs: a step with and without it, and a checkpoint's manifest.

    python benchmarks/safety.py --data_dir DIR

DIR is the ML-1M data of gin/experiments/ml_1m/sasrec_file.gin, whose encoder
and batch this trains. With: a step that is not finite or a spike changes
nothing, and each step is looked at, timed, and asks the watchdog, SIGTERM and
the checkpoint that is being saved. Without: the plain step. Both take turns, so
that what else the machine does meets both; CPU seconds of the process, medians.
"""

import argparse
import contextlib
import os
import pathlib
import statistics
import tempfile
import time

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# pylint: disable=g-import-not-at-top
import jax
import numpy as np
import optax

from user_llm import checkpoint_files
from user_llm import checkpoints as checkpoints_lib
from user_llm import optimizers
from user_llm import partitioning
from user_llm import trainer as trainer_lib
from user_llm import vitals as vitals_lib
from user_llm.data import pipeline
from user_llm.models import user_encoder
from user_llm.objectives import next_event
from user_llm.runtime import bad_steps
from user_llm.runtime import host_memory
from user_llm.runtime import preemption
from user_llm.runtime import watchdog

_BATCH_SIZE = 32
_FILE_BYTES = 64 << 20
_NUM_FILES = 8


class _Plain(trainer_lib.Trainer):
  """The step alone."""

  def _step(self, state, batch):
    rng = jax.random.fold_in(jax.random.key(self.seed), state.step)
    grads, loss = self._gradients(state, batch, rng)
    grads = jax.tree.map(lambda g: g / loss.weight, grads)
    updates, opt_state = self.optimizer.update(
        grads, state.opt_state, state.trainable
    )
    return state._replace(
        step=state.step + 1,
        trainable=optax.apply_updates(state.trainable, updates),
        opt_state=opt_state,
    ), {
        'loss': loss.total / loss.weight,
        'grad_norm': optax.global_norm(grads),
        'weight': loss.weight,
    }


class _Contender:
  """A training whose steps can be run some at a time."""

  def __init__(self, kind, data_dir, workdir, watched):
    dataset = pipeline.Dataset(
        data_dir=data_dir, task='events', history_length=200,
        modalities=('item',),
    )
    objective = next_event.NextEvent(
        encoder=user_encoder.UserEncoderConfig(
            schema=dataset.schema, num_layers=2, embed_dim=96, num_heads=3,
            mlp_dim=192, dropout_rate=0.2,
        )
    )
    optimizer = optimizers.AdamW(learning_rate=2e-3, warmup_steps=200)
    threshold = {'spike_threshold': 20.0} if watched else {}
    self._trainer = kind(
        objective=objective, optimizer=optimizer.make(3400),
        mesh=partitioning.MeshConfig().make(), **threshold,
    )
    self._spec = trainer_lib.select_batch(
        dataset.batch_spec('train', _BATCH_SIZE), objective.batch_keys
    )
    self._state = self._trainer.init_state(self._spec)
    self._step = self._trainer.compile_step(self._state, self._spec)
    self._batches = dataset.train_batches(batch_size=_BATCH_SIZE, seed=0)
    self._number = 0
    self._workdir, self._watched = workdir, watched
    self._checkpoints = checkpoints_lib.Checkpoints(workdir)

  def run(self, num_steps):
    """CPU seconds a step."""
    with contextlib.ExitStack() as stack:
      if self._watched:
        vitals = stack.enter_context(vitals_lib.Vitals(
            self._workdir, self._trainer, self._spec,
            start_step=self._number, num_steps=10**6, log_every_steps=20,
        ))
        watch = stack.enter_context(preemption.Watch(time.monotonic() + 1e6))
        stack.enter_context(watchdog.Watchdog(1800))
        bad = bad_steps.BadSteps(self._workdir, 3)
      start = time.process_time()
      scalars = None
      for _ in range(num_steps):
        self._number += 1
        batch = (
            vitals.next_batch(self._batches)
            if self._watched
            else next(self._batches)
        )
        before = scalars
        self._state, scalars = self._step(
            self._state,
            self._trainer.device_batch({k: batch[k] for k in self._spec}),
        )
        if self._watched:
          watchdog.beat()
          vitals.step(self._number, scalars)
          bad.log(self._number, scalars, batch)
          assert not watch.is_due(self._number)
          assert not self._checkpoints.is_due_again()
        elif before is not None:
          float(before['loss'])
      jax.block_until_ready(self._state.step)
      return (time.process_time() - start) / num_steps


def _steps(data_dir, turns, num_steps):
  with tempfile.TemporaryDirectory() as folder:
    contenders = {
        'with': _Contender(trainer_lib.Trainer, data_dir, folder, True),
        'without': _Contender(_Plain, data_dir, folder, False),
    }
    for contender in contenders.values():
      contender.run(2)
    secs = {name: [] for name in contenders}
    for turn in range(turns):
      for name in sorted(contenders, reverse=bool(turn % 2)):
        secs[name].append(contenders[name].run(num_steps))
  ratios = [a / b for a, b in zip(secs['with'], secs['without'])]
  for name, found in secs.items():
    print(f'{name:8} {1e3 * statistics.median(found):8.1f} CPU-ms a step')
  print(
      f'with / without: {statistics.median(ratios):.4f} '
      f'({min(ratios):.3f} - {max(ratios):.3f}, {turns} turns)'
  )


def _verification():
  rng = np.random.default_rng(0)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for i in range(_NUM_FILES):
      (folder / f'{i}').write_bytes(rng.bytes(_FILE_BYTES))
    num_mb = _NUM_FILES * _FILE_BYTES / 1e6
    start = time.monotonic()
    checkpoint_files.seal(folder)
    print(f'manifest: {num_mb / (time.monotonic() - start):,.0f} MB/s')
    start = time.monotonic()
    assert not checkpoint_files.damages(folder)
    print(f'check:    {num_mb / (time.monotonic() - start):,.0f} MB/s')


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data_dir', required=True)
  parser.add_argument('--turns', type=int, default=8)
  parser.add_argument('--steps', type=int, default=10)
  args = parser.parse_args()
  host_memory.keep_freed_memory()
  _verification()
  _steps(args.data_dir, args.turns, args.steps)


if __name__ == '__main__':
  main()
