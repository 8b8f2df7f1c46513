"""Accelerators that are not here, and what is counted for them."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from user_llm import collectives
from user_llm import flops
from user_llm import main
from user_llm import partitioning
from user_llm import topologies
from user_llm import trainer as trainer_lib

import small_run


def test_layouts_have_as_many_devices_as_they_say():
  for name, topology in topologies.TOPOLOGIES.items():
    if topology.is_compiled_for:
      layout = topology.layout.partition(':')[2]
      assert np.prod([int(n) for n in layout.split('x')]) == (
          topology.num_devices
      ), name


def test_peaks():
  assert topologies.peak_flops('TPU v5 lite') == 197e12
  assert topologies.peak_flops('cpu') is None
  known = {t.peak_tflops for t in topologies.TOPOLOGIES.values()}
  assert known <= {topologies.peak_flops(k) / 1e12 for k in (
      'TPU v5 lite', 'TPU v5', 'TPU v6 lite', 'NVIDIA H100 80GB HBM3'
  )}


@pytest.mark.parametrize(
    ['flags', 'message'],
    [
        (['--dry_run', '--topology=v9-1'], '--topology=v9-1: one of v5e-4'),
        (['--topology=v5e-16'], '--topology goes with --dry_run'),
    ],
)
def test_mistakes(flags, message, tmp_path, capsys):
  argv = ['train', f'--workdir={tmp_path}', '--gin_file=x.gin', *flags]
  assert main.main(argv) == 2
  assert message in capsys.readouterr().err


def test_matrix_products():
  a, b = jnp.zeros((3, 4)), jnp.zeros((4, 5))
  assert flops.matmul_flops(lambda a, b: a @ b, a, b) == 2 * 3 * 4 * 5
  batched = lambda x, y: jnp.einsum('bij,bkj->bik', x, y)
  x, y = jnp.zeros((7, 3, 4)), jnp.zeros((7, 5, 4))
  assert flops.matmul_flops(batched, x, y) == 2 * 7 * 3 * 4 * 5


def test_what_runs_several_times():
  a = jnp.zeros((4, 4))
  once = 2 * 4**3
  looped = lambda a: jax.lax.fori_loop(0, 6, lambda _, x: x @ a, a)
  assert flops.matmul_flops(looped, a) == 6 * once  # A scan.
  branch = lambda a: jax.lax.cond(
      a[0, 0] > 0, lambda: a @ a @ a, lambda: a @ a
  )
  assert flops.matmul_flops(branch, a) == 2 * once
  loss = lambda a: jnp.sum(jax.checkpoint(lambda x: jnp.sin(x @ x) @ a)(a))
  # Two products; again; and two gradients each, of which none is left out.
  both = jax.value_and_grad(loss)
  assert flops.matmul_flops(both, a) == (2 + 1 + 4) * once
  # Nobody reads the loss itself: its two products are not computed.
  assert flops.matmul_flops(jax.grad(loss), a) == (1 + 4) * once


def test_they_are_those_that_xla_counts():
  rng = np.random.default_rng(0)
  a = rng.normal(size=(64, 96)).astype(np.float32)
  b = rng.normal(size=(96, 32)).astype(np.float32)
  loss = lambda a, b: jnp.sum((a @ b) ** 2)
  grads = jax.grad(loss, argnums=(0, 1))
  xla = jax.jit(grads).lower(a, b).compile().cost_analysis()['flops']
  assert abs(flops.matmul_flops(grads, a, b) / xla - 1) < 0.02


def test_a_step_has_all_chunks_of_the_vocabulary(tiny_dataset):
  """Forwards and backwards, three products with every parameter of a kernel."""
  trainer = trainer_lib.Trainer(
      objective=small_run.objective(tiny_dataset, dropout_rate=0.0),
      optimizer=small_run.arguments(tiny_dataset, '')['optimizer'].make(9),
      mesh=partitioning.MeshConfig().make(),
  )
  spec = small_run.spec(tiny_dataset)
  state = trainer.abstract_state(spec)
  params = state.trainable['user_encoder']
  positions = np.prod(spec['user_item'].shape)
  kernels = sum(
      np.prod(x.shape)
      for path, x in jax.tree_util.tree_leaves_with_path(params)
      if 'kernel' in jax.tree_util.keystr(path)
  )
  tables = sum(
      np.prod(params[f'embeds_{name}']['table'].shape)
      for name in ('item', 'genre')
  )
  width, length = 16, spec['user_item'].shape[1]
  attention = 2 * positions * length * width  # Scores, and values.
  products = 3 * positions * (kernels + tables) + 3 * attention
  assert trainer.step_flops(spec) == 2 * products


_HLO = """
HloModule step

%body.1 (arg: (f32[8])) -> (f32[8]) {
  %x = f32[8]{0} parameter(0)
  %all-gather.1 = bf16[16,4]{1,0} all-gather(%x), dimensions={0}
  %r = f32[8]{0} all-reduce(%x), to_apply=%add.1
}

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %s = f32[] add(%a, %b)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (f32[8]) while(%p), body=%body.1, config={"known_trip_count":{"n":"3"}}
  %pair = (f32[2]{0}, f32[3]{0}) all-reduce(%p, %p), to_apply=%add.1
  %start = (f32[4]{0}, f32[8]{0}) all-gather-start(%p), dimensions={0}
  %done = f32[8]{0} all-gather-done(%start)
}
"""


def test_traffic_by_hand():
  assert collectives.traffic(_HLO) == {
      'all-gather': collectives.Traffic(3 + 1, 3 * 16 * 4 * 2 + 8 * 4),
      'all-reduce': collectives.Traffic(3 + 1, 3 * 8 * 4 + (2 + 3) * 4),
  }


@pytest.mark.parametrize(
    ['lines', 'times'],
    [
        (('%n = u32[]{:T(128)} constant(16)', 'direction=LT'), 16),
        # These tell no number of turns.
        (('%n = u32[] constant(16)', 'direction=GT'), 1),
        (('%n = s32[] constant(16)', '%m = s32[] constant(2)', 'direction=LT'), 1),
    ],
)
def test_a_loop_that_counts_in_its_condition(lines, times):
  """As XLA writes them for TPUs."""
  *constants, direction = lines
  condition = (
      '%cond.1 (p: (u32[])) -> pred[] {\n'
      + ''.join(f'  {line}\n' for line in constants)
      + f'  ROOT %less = pred[] compare(%i, %n), {direction}\n}}\n\n'
  )
  hlo = _HLO.replace('%add.1 (a', f'{condition}%add.1 (a', 1).replace(
      'body=%body.1, config={"known_trip_count":{"n":"3"}}',
      'condition=%cond.1, body=%body.1',
  )
  assert collectives.traffic(hlo)['all-gather'].count == times + 1


def test_traffic_of_a_compiled_program():
  mesh = partitioning.MeshConfig(data=8).make()
  rows = jax.ShapeDtypeStruct(
      (16, 32), jnp.float32, sharding=partitioning.batch_sharding(mesh)
  )
  compiled = jax.jit(lambda x: jnp.sum(x, axis=0)).lower(rows).compile()
  assert collectives.traffic(compiled.as_text()) == {
      'all-reduce': collectives.Traffic(1, 32 * 4)
  }
  alone = jax.jit(lambda x: x + 1).lower(jnp.zeros(3)).compile()
  assert collectives.traffic(alone.as_text()) == {}


_DRY_RUN = """
import sys
from user_llm import main
sys.exit(main.main(sys.argv[1:]))
"""


def _dry_run(tmp_path, tiny_dataset, topology, *flags):
  config = tmp_path / 'x.gin'
  config.write_text(
      "include 'models/user_encoder.gin'\n"
      "include 'runs/pretrain_encoder.gin'\n"
      'ENCODER_LAYERS = 1\nHISTORY_LENGTH = 12\nNUM_STEPS = 900\n'
      f'BATCH_SIZE = 64\nLEARNING_RATE = 0.1\nDATA_DIR = {tiny_dataset!r}\n'
  )
  return subprocess.run(
      [
          sys.executable, '-c', _DRY_RUN, 'train', '--dry_run',
          f'--topology={topology}', f'--gin_file={config}',
          f'--workdir={tmp_path / "run"}', *flags,
      ],
      capture_output=True, text=True, check=False,
  )


def test_eight_gpus_from_the_command_line(tmp_path, tiny_dataset):
  found = _dry_run(tmp_path, tiny_dataset, 'h100-8')
  assert found.returncode == 0, found.stderr
  assert 'h100-8, replica 1 x data 8 x model 1: 0.0' in found.stdout
  assert 'of 75 GiB a device, which fits' in found.stdout
  assert 'all-reduce' in found.stdout
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_tpu_from_the_command_line(tmp_path, tiny_dataset):
  pytest.importorskip('libtpu', reason="pip install 'user_llm[tpu]'")
  found = _dry_run(tmp_path, tiny_dataset, 'v5e-16')
  assert found.returncode == 0, found.stderr
  assert 'v5e-16, replica 1 x data 16 x model 1: 0.0' in found.stdout
  assert 'of 16 GiB a device, which fits' in found.stdout
