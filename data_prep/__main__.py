"""Prepares datasets: python -m data_prep COMMAND ..."""

import argparse
import difflib
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


def _parse(argv: list[str]) -> argparse.Namespace:
  """Also what comes after --; ends the process where a flag is unknown."""
  stop = argv.index('--') if '--' in argv else len(argv)
  parser = argparse.ArgumentParser(prog='data_prep', description=__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  for command in _COMMANDS:
    command.add(commands)
  args, unknown = parser.parse_known_args(argv[:stop])
  parser = commands.choices[args.command]
  if unknown:
    flag = unknown[0].partition('=')[0]
    near = difflib.get_close_matches(flag, [f'--{name}' for name in vars(args)])
    guess = f'; did you mean {near[0]}?' if near else ''
    parser.error(f'unrecognized arguments: {" ".join(unknown)}{guess}')
  args.beam_options = argv[stop + 1 :]
  if args.beam_options and getattr(args, 'engine', None) != 'beam':
    parser.error('what comes after -- is for --engine=beam')
  return args


def main(argv: list[str] | None = None) -> int:
  """Returns the exit code: 2 for what the user can mend."""
  args = _parse(sys.argv[1:] if argv is None else argv)
  try:
    args.run(args)
  except (ValueError, OSError) as error:
    print(f'data_prep: error: {error}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    left = (
        'the same command goes on from --work_dir'
        if getattr(args, 'engine', None) == 'beam'
        else 'nothing is left behind'
    )
    print(f'data_prep: interrupted; {left}.', file=sys.stderr)
    return 130
  return 0


if __name__ == '__main__':
  # As an exception, so that the half-written directory is removed.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  sys.exit(main())
