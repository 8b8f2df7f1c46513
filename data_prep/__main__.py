"""Prepares datasets: python -m data_prep COMMAND ..."""

import argparse
import signal
import sys

from data_prep.commands import amazon_reviews
from data_prep.commands import download
from data_prep.commands import forget
from data_prep.commands import google_local
from data_prep.commands import movielens
from data_prep.commands import sequences
from data_prep.commands import synthetic
from data_prep.commands import table
from data_prep.commands import verify

# Each adds its flags; what it needs is loaded when it runs, so that --help
# is quick.
_COMMANDS = (
    movielens,
    amazon_reviews,
    google_local,
    table,
    sequences,
    synthetic,
    download,
    forget,
    verify,
)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='data_prep', description=__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  for command in _COMMANDS:
    command.add(commands)
  return parser


def main(argv: list[str] | None = None) -> int:
  """Returns the exit code: 2 for what the user can mend."""
  argv = sys.argv[1:] if argv is None else argv
  stop = argv.index('--') if '--' in argv else len(argv)
  parser = _parser()
  args = parser.parse_args(argv[:stop])
  args.beam_options = argv[stop + 1 :]
  uses_beam = getattr(args, 'engine', None) == 'beam'
  if args.beam_options and not uses_beam:
    parser.error('what comes after -- is for --engine=beam')
  try:
    args.run(args)
  except (ValueError, OSError) as error:
    print(f'data_prep: error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    left = (
        'the same command goes on from --work_dir'
        if uses_beam
        else 'nothing is left behind'
    )
    print(f'data_prep: interrupted; {left}.', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  # As an exception, so that the half-written directory is removed.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  sys.exit(main())
