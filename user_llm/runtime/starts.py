"""Tells a launcher that this start has got as far as all processes having met.

The launcher ends a job that starts again and again for nothing; a start that
only waited for the others, such as for machines that were taken away, is none.
"""

from collections.abc import MutableMapping
import os
import pathlib

# Set together, by a launcher and for the first process only: a file, and the
# line to add to it.
FILE = 'USER_LLM_STARTS_FILE'
LINE = 'USER_LLM_STARTS_LINE'


def note(environment: MutableMapping[str, str] = os.environ) -> None:
  """Adds the line to the file, once, if there is a launcher.

  Raises:
    OSError: it cannot be written.
  """
  path = pathlib.Path(environment.pop(FILE, ''))
  line = environment.pop(LINE, '')
  if line:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a', encoding='utf-8') as file:
      file.write(line + '\n')
