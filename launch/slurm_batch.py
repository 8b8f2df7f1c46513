"""The batch step of a SLURM job: srun, then requeue by exit code.

  python -m launch.slurm_batch --logs=DIR -- PYTHON -m launch.entry ...
"""

import argparse
from collections.abc import Sequence
import os
import pathlib
import re
import signal
import subprocess
import sys

from launch import exit_codes


def main(argv: Sequence[str] | None = None) -> int:
  argv = list(sys.argv[1:] if argv is None else argv)
  end = argv.index('--')
  parser = argparse.ArgumentParser(prog='launch.slurm_batch')
  parser.add_argument('--logs', type=pathlib.Path, required=True)
  args = parser.parse_args(argv[:end])
  args.logs.mkdir(parents=True, exist_ok=True)
  # SLURM signals the ranks itself; this process must live to requeue them.
  signal.signal(signal.SIGTERM, lambda *_: None)
  code = _run_ranks(argv[end + 1 :], args.logs)
  print(f'launch: {exit_codes.describe(code)}', flush=True)
  if exit_codes.is_retried(code):
    # Refused where `stop` has said that it must not start again.
    subprocess.run(
        ['scontrol', 'requeue', os.environ['SLURM_JOB_ID']], check=False
    )
  return code


def _run_ranks(command: Sequence[str], logs: pathlib.Path) -> int:
  """The exit code of the job: what srun says of its ranks, as one code."""
  environment = dict(os.environ)
  # Since 22.05 srun does not take it from what sbatch was given.
  if cpus := environment.get('SLURM_CPUS_PER_TASK'):
    environment['SRUN_CPUS_PER_TASK'] = cpus
  process = subprocess.Popen(
      [
          'srun',
          '--kill-on-bad-exit=1',
          '--open-mode=append',
          f'--output={logs}/rank-%4t.log',
          *command,
      ],
      env=environment,
      stderr=subprocess.PIPE,
      text=True,
      errors='replace',
  )
  codes = []
  for line in process.stderr:
    print(line, end='', file=sys.stderr, flush=True)
    # Its own code is the largest, which hides the mistake of one rank behind
    # the kill of the others.
    found = re.search(r'srun: error: .*: Exited with exit code (\d+)', line)
    if found:
      codes.append(int(found[1]))
  codes.append(exit_codes.of_process(process.wait()))
  return exit_codes.of_job(codes)


if __name__ == '__main__':
  sys.exit(main())
