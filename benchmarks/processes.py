"""A training as two processes against the same training as one.

    python benchmarks/processes.py [--num_steps N] [--turns N]

The quickstart's encoder on the synthetic world, with its global batch of 64
rows, on two CPU cores: one process that has both, and two processes that have
one each and talk by gloo, with the weights in halves (the axis `data`) or whole
in both (`replica`). All have as much of the machine. They take turns; medians
are printed, and how far the losses of a step are apart at most.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile

_EXPERIMENT = 'experiments/quickstart_synthetic/pretrain_encoder.gin'
# The first steps fill caches.
_WARM_UP = 10


def _environment(process: int, num_processes: int, port: int) -> dict[str, str]:
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  if num_processes > 1:
    environment |= {
        'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
        'JAX_NUM_PROCESSES': str(num_processes),
        'JAX_PROCESS_ID': str(process),
    }
  return environment


def _train(
    data_dir: pathlib.Path,
    workdir: pathlib.Path,
    num_steps: int,
    cores: Sequence[set[int]],
    replicas: int,
) -> tuple[float, list[float]]:
  """Steps a second and losses; a process for each set of cores."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  command = [
      *(sys.executable, '-m', 'user_llm.main', 'train'),
      *(f'--gin_file={_EXPERIMENT}', f'--workdir={workdir}'),
      *(f'--gin.DATA_DIR="{data_dir}"', f'--gin.NUM_STEPS={num_steps}'),
      *('--gin.LOG_EVERY_STEPS=1', '--gin.EVAL_EVERY_STEPS=0'),
      '--gin.EVALUATORS=[]',
      f'--gin.partitioning.MeshConfig.replica={replicas}',
  ]
  processes = [
      subprocess.Popen(
          ['taskset', '--cpu-list', ','.join(map(str, mine)), *command],
          env=_environment(i, len(cores), port),
          stdout=subprocess.DEVNULL,
          stderr=subprocess.DEVNULL,
      )
      for i, mine in enumerate(cores)
  ]
  codes = [process.wait() for process in processes]
  if any(codes):
    raise RuntimeError(f'The processes ended with {codes}.')
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if 'train/loss' in row]
  secs = rows[-1]['train/wall_secs'] - rows[_WARM_UP - 1]['train/wall_secs']
  return (num_steps - _WARM_UP) / secs, [row['train/loss'] for row in rows]


def main() -> None:
  """Prints the figures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--num_steps', type=int, default=110)
  parser.add_argument('--turns', type=int, default=3)
  args = parser.parse_args()
  first, second, *_ = sorted(os.sched_getaffinity(0))
  contenders = {
      'one process': ([{first, second}], 1),
      'two, weights in halves': ([{first}, {second}], 1),
      'two, weights whole': ([{first}, {second}], 2),
  }
  rates = {name: [] for name in contenders}
  losses = {}
  with tempfile.TemporaryDirectory() as directory:
    folder = pathlib.Path(directory)
    subprocess.run(
        [
            *(sys.executable, '-m', 'data_prep', 'synthetic'),
            *('--output', folder / 'data'),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for turn in range(args.turns):
      for name, (cores, replicas) in contenders.items():
        workdir = folder / f'{turn}-{len(cores)}-{replicas}'
        rate, losses[name] = _train(
            folder / 'data', workdir, args.num_steps, cores, replicas
        )
        rates[name].append(rate)
  print('| | steps/s | lowest | highest | x one process | losses apart |')
  print('|---|---|---|---|---|---|')
  one, *_ = contenders
  for name, found in rates.items():
    ratio = statistics.median(found) / statistics.median(rates[one])
    apart = max(abs(a / b - 1) for a, b in zip(losses[name], losses[one]))
    print(
        f'| {name} | {statistics.median(found):.1f} | {min(found):.1f} | '
        f'{max(found):.1f} | {ratio:.2f} | {apart:.1e} |'
    )


if __name__ == '__main__':
  main()
