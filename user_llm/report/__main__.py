"""`python -m user_llm.report --workdirs W1 W2 ... --output FILE.html`.

Writes one self-contained HTML page and `results.md` beside it, and prints the
tables.
"""

import argparse
from collections.abc import Sequence
import pathlib
import sys

from user_llm.report import page
from user_llm.report import results
from user_llm.report import tables

MARKDOWN_FILE = 'results.md'


def write_report(
    *, workdirs: Sequence[str], output: str, title: str = 'User-LLM'
) -> None:
  """Writes the page and the Markdown tables.

  Args:
    workdirs: Runs to put side by side; of two that measured the same model on
      the same task, the last one counts.
    output: The HTML file.
    title: Heading of the page.

  Raises:
    ValueError: A workdir does not exist or holds a broken file.
  """
  runs = [results.load_run(workdir) for workdir in workdirs]
  html = page.render(runs, title)
  path = pathlib.Path(output)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(html, encoding='utf-8')
  tables.write_markdown(
      str(path.with_name(MARKDOWN_FILE)), results.make_tables(runs)
  )


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
      prog='python -m user_llm.report', description=__doc__
  )
  parser.add_argument('--workdirs', nargs='+', required=True)
  parser.add_argument('--output', required=True, help='the HTML file')
  parser.add_argument('--title', default='User-LLM')
  args = parser.parse_args(argv)
  try:
    write_report(
        workdirs=args.workdirs, output=args.output, title=args.title
    )
    tables.print_results(args.workdirs)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(f'Report: {pathlib.Path(args.output).resolve()}')
  return 0


if __name__ == '__main__':
  sys.exit(main())
