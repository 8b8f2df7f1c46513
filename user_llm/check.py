"""Checks many variants of one training before any is run: `main check`.

Each variant is a list of overrides, 'NAME=VALUE'. It is parsed as a run parses
it, its values are compared with signatures, and a step is traced on shapes
alone; of variants that differ in SEED alone, one step. All in one process: most
of a start is the imports.
"""

from collections.abc import Sequence
import json
import pathlib
import sys
import time
import traceback
from typing import Any

from user_llm import gin_utils
from user_llm import train
from user_llm import user_errors
from user_llm.runtime import distributed

_PROGRESS_SECS = 10.0


def check(
    *,
    gin_files: Sequence[str],
    search_paths: Sequence[str],
    trust: bool,
    input: str,  # pylint: disable=redefined-builtin
    output: str,
) -> None:
  """Writes what became of each variant, one JSON object a line.

  The first line is of the gin files as they are, with nothing overridden and
  nothing traced; what they require may be missing there. Then one line for each
  of the input.

  Args:
    gin_files: Of a training.
    search_paths: See `gin_utils.load_config`.
    trust: See `gin_utils.load_config`.
    input: JSON lines, each a list of overrides.
    output: JSON lines {'error': the message or null, 'config': gin, 'values':
      {NAME: value as gin writes it}}, of each overridden macro, and in the
      first line of each macro of the files.
  """
  distributed.check_alone('check')
  lines = pathlib.Path(input).read_text(encoding='utf-8').splitlines()
  shown_secs = time.monotonic()
  with pathlib.Path(output).open('w', encoding='utf-8') as file:
    base = _result(_base, gin_files, search_paths, trust)
    traced: set[str] = set()
    file.write(json.dumps(base) + '\n')
    for i, line in enumerate(lines if base['error'] is None else ()):
      row = _result(
          _check_variant, gin_files, json.loads(line), search_paths, trust,
          traced,
      )
      file.write(json.dumps(row) + '\n')
      if time.monotonic() - shown_secs > _PROGRESS_SECS:
        shown_secs = time.monotonic()
        print(f'checked {i + 1} of {len(lines)}', file=sys.stderr, flush=True)


def _base(
    gin_files: Sequence[str], search_paths: Sequence[str], trust: bool
) -> dict[str, str]:
  """All macros of the files."""
  gin_utils.parse_files(gin_files, search_paths, trust)
  return {
      name: value
      for name, value in gin_utils.parsed_bindings().items()
      if name.isidentifier()
  }


def _check_variant(
    gin_files: Sequence[str],
    overrides: Sequence[str],
    search_paths: Sequence[str],
    trust: bool,
    traced: set[str],
) -> dict[str, str]:
  """The overridden macros' values; raises whatever a run would raise."""
  gin_utils.load_config(gin_files, overrides, search_paths, trust)
  bindings = gin_utils.parsed_bindings()
  shapes = json.dumps({k: v for k, v in bindings.items() if k != 'SEED'})
  if shapes not in traced:
    gin_utils.configured(train.train)(workdir='', check=True)
    traced.add(shapes)
  names = (override.partition('=')[0] for override in overrides)
  return {name: bindings[name] for name in names}


def _result(function: Any, *args: Any) -> dict[str, Any]:
  """What the function left behind; any error becomes a message.

  JAX has errors of many types for shapes that do not fit; one variant's bug
  must not hide the mistakes of the others.
  """
  gin_utils.clear()
  values, error = {}, None
  try:
    values = function(*args)
  except Exception as raised:  # pylint: disable=broad-exception-caught
    error = user_errors.message(raised)
    if not user_errors.is_user_error(raised):
      where = traceback.extract_tb(raised.__traceback__)[-1]
      place = f'{where.filename}:{where.lineno}'
      error = f'{type(raised).__name__}: {error} ({place})'
  return {
      'error': error,
      'config': '' if error else gin_utils.config_text(),
      'values': values,
  }
