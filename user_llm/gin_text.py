"""gin configurations as text, for who does not load them."""

from collections.abc import Iterator


def statements(config: str) -> Iterator[str]:
  """A config's statements, each on one line, without comments."""
  statement = ''
  for line in config.splitlines():
    if line.startswith(' '):
      statement = f'{statement.removesuffix(chr(92)).rstrip()} {line.strip()}'
      continue
    if statement:
      yield statement
    statement = '' if line.startswith('#') else line.rstrip()
  if statement:
    yield statement
