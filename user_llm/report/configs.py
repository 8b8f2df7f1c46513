"""What a run's `config.gin` says, read as text: macros, and which it is."""

import functools
import hashlib
import pathlib
import re

from user_llm import gin_text

CONFIG_FILE = 'config.gin'
_MACRO = re.compile(r'([A-Z][A-Z0-9_]*) = (.*)', re.DOTALL)
# What changes how a run is watched, not what it learns; and its seed.
_IGNORED = re.compile(
    r'(SEED|(LOG|EVAL|SAVE)_EVERY_STEPS|PROFILE_STEPS|HANG_SECS) = .*',
    re.DOTALL,
)
_CHECKPOINT = re.compile(r"(\w*_CHECKPOINT) = '(.+)'")


def macros(workdir: pathlib.Path) -> dict[str, str]:
  """The values of the UPPER_CASE names as gin text; none without a config."""
  found = (_MACRO.fullmatch(line) for line in gin_text.statements(_text(workdir)))
  return {match[1]: match[2] for match in found if match}


@functools.lru_cache(maxsize=1024)
def identity(workdir: pathlib.Path) -> str:
  """The same for runs of one configuration, whatever their seeds.

  How often they log, evaluate or save does not count. A checkpoint that a run
  started from counts by its own run's configuration, not by its path: it may
  have a seed too. A run without a config is like no other.
  """
  text = _text(workdir)
  if not text:
    return str(workdir)
  lines = [
      _without_path(line)
      for line in gin_text.statements(text)
      if not _IGNORED.fullmatch(line)
  ]
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]


def _without_path(line: str) -> str:
  match = _CHECKPOINT.fullmatch(line)
  if not match or not _text(pathlib.Path(match[2])):
    return line
  return f'{match[1]} = {identity(pathlib.Path(match[2]).resolve())}'


def _text(workdir: pathlib.Path) -> str:
  path = workdir / CONFIG_FILE
  return path.read_text(encoding='utf-8') if path.is_file() else ''
