"""What is known of submitted jobs: one folder each, in `plan.JOBS`."""

import dataclasses
import difflib
import json
import pathlib

from launch import files
from launch import plan as plan_lib
from launch import spec as spec_lib

_FILE = 'job.json'
# These change from one submission of a job to the next.
_CHANGING = ('submission', 'code')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
  """A submitted job and what its backend calls it."""

  spec: spec_lib.JobSpec
  handle: str = ''

  def save(self) -> None:
    path = folder(self.spec.name) / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, _text(dataclasses.asdict(self)))


def folder(name: str) -> pathlib.Path:
  return pathlib.Path(plan_lib.JOBS) / name


def names() -> list[str]:
  """All submitted jobs."""
  found = pathlib.Path(plan_lib.JOBS).glob(f'*/{_FILE}')
  return sorted(path.parent.name for path in found)


def find(name: str) -> Record | None:
  path = folder(name) / _FILE
  if not path.is_file():
    return None
  values = json.loads(path.read_text(encoding='utf-8'))
  return Record(
      spec=spec_lib.JobSpec(**values['spec']), handle=values['handle']
  )


def get(name: str) -> Record:
  """Raises ValueError if there is none."""
  record = find(name)
  if record is None:
    known = ', '.join(names()) or 'none'
    raise ValueError(
        f'There is no job {name!r} in {plan_lib.JOBS}; there are: {known}.'
        + spec_lib.suggestion(name, names())
    )
  return record


def difference(old: spec_lib.JobSpec, new: spec_lib.JobSpec) -> str:
  """What the user changed, as lines with - and +; '' if nothing."""
  texts = []
  for spec in (old, new):
    values = dataclasses.asdict(spec)
    for key in _CHANGING:
      values.pop(key)
    texts.append(_text(values).splitlines())
  lines = difflib.unified_diff(*texts, n=0, lineterm='')
  return '\n'.join(l for l in lines if not l.startswith(('---', '+++', '@@')))


def _text(values: object) -> str:
  return json.dumps(values, indent=1, ensure_ascii=False) + '\n'
