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
)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog='data_prep', description=__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  for command in _COMMANDS:
    command.add(commands)
  return parser


def main(argv: list[str] | None = None) -> int:
  """Returns the exit code: 2 for what the user can mend."""
  args = _parser().parse_args(argv)
  try:
    args.run(args)
  except (ValueError, OSError) as error:
    print(f'data_prep: error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('data_prep: interrupted; nothing is left behind.', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  # As an exception, so that the half-written directory is removed.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  sys.exit(main())
