"""Has gin read every trial before the first one starts.

launch knows text only, so `python -m user_llm.main check` does it: all trials
in one process.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile

from launch import guard
from launch.sweep import expand


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
  """One variant, or the gin files alone, as gin reads it.

  Attributes:
    error: What is wrong with it; then the rest is empty.
    config: The whole gin config, which can be run.
    values: {macro: value}, as gin writes it.
  """

  error: str | None
  config: str = ''
  values: Mapping[str, str] = dataclasses.field(default_factory=dict)


# (gin files, variants) -> the files alone, and each variant.
Checker = Callable[
    [Sequence[str], Sequence[expand.Bindings]],
    tuple[Checked, list[Checked]],
]


def overrides(variant: expand.Bindings) -> list[str]:
  return [f'{macro}={text}' for macro, text in sorted(variant.items())]


def check(
    gin_files: Sequence[str],
    variants: Sequence[expand.Bindings],
    flags: Sequence[str] = (),
) -> tuple[Checked, list[Checked]]:
  """See `Checker`; `flags` are further ones of user_llm.main.

  Raises:
    ValueError: the gin files cannot be read at all.
  """
  with tempfile.TemporaryDirectory() as folder:
    source, target = (pathlib.Path(folder, name) for name in ('in', 'out'))
    lines = [json.dumps(overrides(variant)) + '\n' for variant in variants]
    source.write_text(''.join(lines), encoding='utf-8')
    code = subprocess.run(
        [
            sys.executable, '-m', 'user_llm.main', 'check',
            *(f'--gin_file={path}' for path in gin_files),
            f'--input={source}', f'--output={target}', *flags,
        ],
        # Shapes need no memory of the device, which may be at work.
        env={
            **guard.lone_environment(),
            'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
        },
        check=False,
    ).returncode
    if code:
      raise ValueError(
          f'The trials could not be checked: exit code {code}; see above.'
      )
    text = target.read_text(encoding='utf-8')
  base, *checked = (Checked(**json.loads(line)) for line in text.splitlines())
  if base.error is not None:
    raise ValueError(base.error)
  return base, checked


def raise_errors(
    variants: Sequence[expand.Bindings], checked: Sequence[Checked]
) -> None:
  """Raises one ValueError with all that is wrong, and in which trials."""
  wrong: dict[str, list[str]] = {}
  for variant, found in zip(variants, checked):
    if found.error is not None:
      lines = wrong.setdefault(found.error, [])
      lines.append('    ' + '  '.join(overrides(variant)))
  if wrong:
    count = sum(map(len, wrong.values()))
    raise ValueError(
        f'{count} of {len(variants)} trials cannot run; none was started.'
        + ''.join(
            f'\n  {error}\n' + '\n'.join(lines)
            for error, lines in wrong.items()
        )
    )
