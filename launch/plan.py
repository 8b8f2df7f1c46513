"""What a job is made of before anything runs: files, and commands."""

from collections.abc import Mapping
import dataclasses
import itertools
import pathlib
import shlex
import shutil

# Jobs are known by their folders in it; relative to the checkout, from which
# all commands run.
JOBS = pathlib.PurePosixPath('runs/launch')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
  """One command. `note` is for the reader of a plan."""

  title: str
  argv: tuple[str, ...]
  note: str = ''

  def text(self) -> str:
    """As one would type it, a flag a line."""
    lines = [f'# {line}' for line in (self.title, *self.note.splitlines())]
    command = shlex.quote(self.argv[0])
    for before, word in itertools.pairwise(self.argv):
      is_value = before.startswith('-') and before != '-m'
      starts_line = word.startswith('-') or is_value
      command += (' \\\n    ' if starts_line else ' ') + shlex.quote(word)
    return '\n'.join([*lines, command]) + '\n'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Files in the job's folder, and commands in order.

  Attributes:
    job: Its name.
    steps: Commands that submit it.
    files: Their contents by their names.
    copies: Names of files of this package that are copied there.
  """

  job: str
  steps: tuple[Step, ...]
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  copies: tuple[str, ...] = ()

  def text(self) -> str:
    """All of it, for reading."""
    parts = [step.text() for step in self.steps]
    for name, content in self.files.items():
      parts.append(f'==> {JOBS / self.job / name} <==\n{content}')
    for name in self.copies:
      parts.append(f'==> {JOBS / self.job / name} <== is launch/{name}\n')
    return '\n'.join(parts)

  def write(self, folder: pathlib.Path) -> None:
    """Writes the files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in self.files.items():
      (folder / name).write_text(content, encoding='utf-8')
    for name in self.copies:
      shutil.copyfile(pathlib.Path(__file__).with_name(name), folder / name)
