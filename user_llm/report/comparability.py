"""Whether results may be compared, and if not, what differs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses

from user_llm.report import results
from user_llm.report import runs as runs_lib

_UNKNOWN = 'not recorded (an older evaluation, without its .npz)'
# How an answer comes about may differ: that is what is compared.
_OF_THE_MODEL = 'generated'
# Clauses of a protocol, by a word of theirs.
_CLAUSES = {
    'ranking protocol': 'ranking', 'seen items': '"unseen"', 'ties': 'ties ',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aspect:
  """One thing that must be the same.

  Attributes:
    name: Such as 'split fingerprint'.
    runs: Names of the runs by what they have.
  """

  name: str
  runs: Mapping[str, tuple[str, ...]]

  @property
  def differs(self) -> bool:
    return len(self.runs.keys() - {_UNKNOWN}) > 1

  @property
  def is_in_doubt(self) -> bool:
    return _UNKNOWN in self.runs and not self.differs

  def __str__(self) -> str:
    """'split rule: leave_one_out (a, b) | global_time (c)'."""
    if len(self.runs) == 1:
      return f'{self.name}: {next(iter(self.runs))}'
    told = (f'{what} ({", ".join(who)})' for what, who in self.runs.items())
    return f'{self.name}: {" | ".join(told)}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """All evaluations of one question, whatever their split and protocol.

  Attributes:
    dataset: Its name.
    kind: 'next item' or the like.
    runs: Names of the runs that were asked.
    aspects: What must be the same.
  """

  dataset: str
  kind: str
  runs: tuple[str, ...]
  aspects: tuple[Aspect, ...]

  @property
  def title(self) -> str:
    return f'{self.dataset}: {self.kind}'

  @property
  def differences(self) -> tuple[Aspect, ...]:
    return tuple(aspect for aspect in self.aspects if aspect.differs)

  @property
  def doubts(self) -> tuple[Aspect, ...]:
    return tuple(aspect for aspect in self.aspects if aspect.is_in_doubt)

  @property
  def verdict(self) -> str:
    """One line."""
    if len(self.runs) < 2:
      return 'One run: its rows are of the same examples.'
    if self.differences:
      told = '; '.join(map(str, self.differences))
      return f'NOT comparable: the runs differ in {told}.'
    if self.doubts:
      told = '; '.join(map(str, self.doubts))
      return f'Comparable as far as is known: {told}.'
    told = ', '.join(aspect.name for aspect in self.aspects)
    return f'Comparable: the same {told}.'


def questions(runs: Sequence[runs_lib.Run]) -> list[Question]:
  """Every question that some run was asked."""
  asked: dict[tuple[str, str], list[tuple[str, runs_lib.Evaluation]]] = {}
  for run in runs:
    for evaluation in run.latest:
      key = results.split_task(evaluation['task'])
      asked.setdefault(key, []).append((run.name, evaluation))
  return [
      Question(
          dataset=dataset,
          kind=kind,
          runs=tuple(dict.fromkeys(name for name, _ in found)),
          aspects=tuple(_aspects(found)),
      )
      for (dataset, kind), found in asked.items()
  ]


def of_table(
    table: results.Table, asked: Sequence[Question]
) -> Question:
  """The question of a table."""
  return next(q for q in asked if q.title == table.title)


def _aspects(
    found: Sequence[tuple[str, runs_lib.Evaluation]]
) -> Iterator[Aspect]:
  for name, key in (
      ('split', 'split'), ('split fingerprint', 'split_fingerprint'),
      ('split rule', 'split_rule'),
  ):
    yield _aspect(name, found, lambda e, key=key: str(e[key]))
  for name in (*_CLAUSES, 'protocol'):
    aspect = _aspect(name, found, lambda e, name=name: _clauses(e, name))
    if aspect.runs.keys() != {''}:
      yield aspect
  counts = _aspect(
      'number of examples', found, lambda e: f"{e['num_examples']:,}"
  )
  # Examples that are not as many are not the same anyway.
  yield counts if counts.differs else _aspect('examples', found, _examples)


def _aspect(
    name: str,
    found: Sequence[tuple[str, runs_lib.Evaluation]],
    value: Callable[[runs_lib.Evaluation], str],
) -> Aspect:
  runs: dict[str, dict[str, None]] = {}
  for run, evaluation in found:
    runs.setdefault(value(evaluation), {})[run] = None
  return Aspect(name=name, runs={k: tuple(v) for k, v in runs.items()})


def _clauses(evaluation: runs_lib.Evaluation, name: str) -> str:
  """The part of the protocol that is about something; 'protocol': the rest."""
  parts: dict[str, list[str]] = {}
  for clause in evaluation.protocol.split('; '):
    if _OF_THE_MODEL in clause:
      continue
    about = (a for a, word in _CLAUSES.items() if word in clause)
    parts.setdefault(next(about, 'protocol'), []).append(clause)
  return '; '.join(parts.get(name, ()))


def _examples(evaluation: runs_lib.Evaluation) -> str:
  kept = evaluation.per_example
  if not len(kept):
    return _UNKNOWN
  return f'{len(kept):,}, digest {kept.identity}'


def check(runs: Sequence[runs_lib.Run]) -> tuple[list[str], bool]:
  """What the `doctor` says, line by line, and whether all can be compared.

  Not comparable are runs of which some question differs in what it is about,
  and several runs without a question in common.
  """
  asked = questions(runs)
  silent = [run.name for run in runs if not run.evaluations]
  lines = [f'{name}: no evaluations yet.' for name in silent]
  for question in asked:
    lines += [question.title, f'  runs: {", ".join(question.runs)}']
    for aspect in question.aspects:
      mark = '?' if aspect.is_in_doubt else 'x' if aspect.differs else '='
      lines.append(f'  {mark} {aspect}')
    lines.append(f'  {question.verdict}')
  is_fine = bool(asked) and not any(q.differences for q in asked)
  measured = len(runs) - len(silent)
  if not asked:
    lines.append(
        'Nothing to compare: no eval/<task>/<step>.json was found. Run '
        '`python -m user_llm.main evaluate --workdir=...` first.'
    )
  elif measured > 1 and all(len(q.runs) < 2 for q in asked):
    lines.append('NOT comparable: no two runs were asked the same question.')
    is_fine = False
  return lines, is_fine
