"""Tables and plots of runs, side by side.

`python -m user_llm.report --workdirs W1 W2 ... --output FILE.html` writes one
self-contained HTML page, `FILE.md` and `FILE.csv` with its tables beside it, and
prints the tables. `python -m user_llm.report doctor --workdirs W1 W2 ...` says
whether the results may be compared; the exit code is 1 if not.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from rich import console as rich_console

from user_llm import atomic
from user_llm.report import comparability
from user_llm.report import csv_file
from user_llm.report import gathering
from user_llm.report import markdown
from user_llm.report import page
from user_llm.report import printing


def write_report(
    *, report: gathering.Report, output: str, title: str = 'User-LLM'
) -> None:
  """Writes the page, and the tables as Markdown and as CSV beside it.

  Args:
    report: What is shown.
    output: The HTML file.
    title: Heading of the page.
  """
  html = page.render(report, title)
  path = pathlib.Path(output)
  atomic.write_text(path, html)
  atomic.write_text(path.with_suffix('.md'), markdown.to_markdown(report))
  csv_file.write(path.with_suffix('.csv'), report)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m user_llm.report',
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
      'mode', nargs='?', choices=('page', 'doctor'), default='page',
      help='default: page',
  )
  parser.add_argument('--workdirs', nargs='+', required=True)
  parser.add_argument('--output', help='the HTML file, for a page')
  parser.add_argument(
      '--against', metavar='ROW',
      help='row that the others are compared with: a model (markov), a run, or '
      "model/run; default: the encoder's head, or else the best floor",
  )
  parser.add_argument('--title', default='User-LLM')
  args = parser.parse_args(argv)
  if args.mode == 'page' and not str(args.output).endswith('.html'):
    parser.error(f'a page needs --output=FILE.html, not {args.output}')
  return args


def main(argv: Sequence[str] | None = None) -> int:
  args = _parse(argv)
  try:
    report = gathering.gather(args.workdirs, args.against)
    if args.mode == 'doctor':
      lines, is_fine = comparability.check(report.runs)
      print('\n'.join(lines))
      return 0 if is_fine else 1
    write_report(report=report, output=args.output, title=args.title)
  except (OSError, ValueError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  printing.print_report(report, rich_console.Console())
  print(f'Report: {pathlib.Path(args.output).resolve()}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
