"""`python -m launch sweep FILE --out FOLDER`, and `sweep show FILE`.

The same command again goes on where the folder is; several at a time, on any
number of machines that see it, share the work.
"""

import argparse
from collections.abc import Mapping, Sequence
import functools
import pathlib

from launch.sweep import check as check_lib
from launch.sweep import expand
from launch.sweep import folder as folder_lib
from launch.sweep import optuna_sampler
from launch.sweep import results
from launch.sweep import spec as spec_lib
from launch.sweep import worker as worker_lib

HELP = 'train all variants that a TOML file names; `sweep show FILE` lists them'


def add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('file', nargs='+', metavar='[show] FILE', help='TOML')
  parser.add_argument('--dry_run', action='store_true', help='as `show`')
  parser.add_argument('--out', type=pathlib.Path, help='folder of the sweep')
  parser.add_argument(
      '--retry_failed', action='store_true',
      help='try trials again that were given up',
  )
  parser.add_argument(
      '--lease_secs', type=float, default=120.0,
      help='a worker that is not heard of for so long has lost its trial',
  )
  parser.add_argument(
      '--sampler', choices=('random', 'optuna'), default='random',
      help='where the draws of [random] come from',
  )
  parser.add_argument(
      '--trust_gin', action='store_true', help='as of user_llm.main'
  )
  parser.epilog = 'Any --gin.NAME=VALUE adds to [set] and wins.'


def run(
    args: argparse.Namespace,
    gin: Mapping[str, str],
    *,
    checker: check_lib.Checker = check_lib.check,
    command: worker_lib.Command = worker_lib.training,
) -> int:
  """Returns the exit code; see `worker.Worker.run`.

  Args:
    args: Of `add_flags`.
    gin: Further macros of [set].
    checker: Has gin read the trials.
    command: Of a trial.

  Raises:
    ValueError: what the user can mend; no trial was started.
  """
  if args.trust_gin:
    flags = ['--trust_gin']
    checker = functools.partial(checker, flags=flags)
    command = functools.partial(command, flags=flags)
  *words, file = args.file
  if words not in ([], ['show']):
    raise ValueError(f'sweep {" ".join(args.file)}: give [show] and one FILE.')
  spec = spec_lib.load(file, gin)
  variants = expand.variants(spec)
  if words or args.dry_run:
    return _show(spec, variants, checker)
  if args.out is None:
    raise ValueError('--out=FOLDER must be given: where the trials go.')
  worker = worker_lib.Worker(
      folder=args.out, command=command, lease_secs=args.lease_secs
  )
  if args.retry_failed:
    for trial in folder_lib.load(args.out).trials:
      trial.forget_failure()
  if args.sampler == 'optuna':
    code = optuna_sampler.run(spec, worker, checker)
  else:
    print(f'{spec.name}: checking {len(variants)} trials', flush=True)
    base, checked = folder_lib.check(args.out, spec, variants, checker)
    plan = folder_lib.prepare(args.out, spec, base, checked)
    print(results.progress(plan), flush=True)
    code = worker.run()
  print((args.out / results.MARKDOWN).read_text(encoding='utf-8'))
  return code


def _show(
    spec: spec_lib.SweepSpec,
    variants: Sequence[expand.Bindings],
    checker: check_lib.Checker,
) -> int:
  """Prints a line a trial."""
  base, checked = checker(spec.base, variants)
  check_lib.raise_errors(variants, checked)
  values = {expand.trial_id(c.values, base.values): c.values for c in checked}
  varying = expand.varying(list(values.values()), spec.macros)
  columns = [*varying, spec_lib.SEED]
  rows = [['trial', *columns]]
  rows += [[k, *(v.get(c, '-') for c in columns)] for k, v in values.items()]
  widths = [max(map(len, column)) for column in zip(*rows)]
  for row in rows:
    print('  '.join(map(str.ljust, row, widths)).rstrip())
  same = [f'{macro} = {text}' for macro, text in spec.fixed.items()]
  print(f'{len(values)} trials; in all of them: {", ".join(same) or "-"}')
  return 0
