"""Users from outside: JSON lines to the batches that an encoder reads."""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import json
import math
import pathlib
import re
from typing import Any

import numpy as np

from user_llm.data import schema as schema_lib

Event = Mapping[str, Any]

# As `data_prep` writes the values of a number, and what an event lacks.
_BUCKET = re.compile(r'\[(\S+), \S+[)\]]')
_UNKNOWN = 'unknown'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """One line of the input.

  Attributes:
    user: Copied to the answer.
    events: Ids of each modality by name, oldest event first; none of a user of
      whom nothing is known.
    question: The task that is asked for; None where none was given.
    about: Ids of what the question names, 'item' and 'rating', where given.
    where: File and line, for errors.
  """

  user: str
  events: tuple[Mapping[str, int], ...]
  question: str | None
  about: Mapping[str, int]
  where: str


class RequestReader:
  """Reads requests against one catalogue.

  Args:
    schema: The modalities that are read of every event.
    catalogue: Items by id.
    asked: The modalities that a question may name; by default `schema`.
  """

  def __init__(
      self,
      schema: schema_lib.EventSchema,
      catalogue: Sequence[schema_lib.CatalogueItem],
      asked: schema_lib.EventSchema | None = None,
  ):
    self._schema = schema
    self._asked = asked or schema
    self._catalogue = catalogue
    self._by_source_id = {item.source_id: item.id for item in catalogue}
    self._by_title: dict[str, list[int]] = {}
    for item in catalogue:
      self._by_title.setdefault(item.title, []).append(item.id)
    self._ids = {
        m.name: {value: i for i, value in enumerate(m.values, start=1)}
        for m in schema.modalities + self._asked.modalities
        if m.values is not None
    }
    self._starts = {
        name: _bucket_starts(values) for name, values in self._ids.items()
    }

  def read(self, path: str) -> Iterator[Request]:
    """Requests of a JSONL file, in order.

    Example of a line: {"user": "u1", "question": "next_item", "history":
    ["Heat (1995)", {"item": "50", "rating": 5}]}; an item is an upstream id or
    a title. What the question names stands beside it: "question":
    "review_generation", "item": "Casino (1995)", "rating": 4.

    Raises:
      ValueError: names the file and the line, and how to mend it.
    """
    if not pathlib.Path(path).is_file():
      raise ValueError(f'--input={path} does not exist.')
    is_empty = True
    with open(path, 'rb') as lines:
      for number, line in enumerate(lines, start=1):
        if line.strip():
          is_empty = False
          yield self._request(line, f'{path}, line {number}')
    if is_empty:
      raise ValueError(f'--input={path} is empty; write one user a line.')

  def _request(self, line: bytes, where: str) -> Request:
    try:
      raw = json.loads(line)
    except json.JSONDecodeError as error:
      # Of its own text it tells lines, of which this is one.
      raise ValueError(
          f'{where}: not JSON ({error.msg}, column {error.colno}).'
      ) from None
    # Also: no UTF-8, a number of thousands of digits, nested too deeply.
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{where}: not JSON ({error}).') from None
    if not isinstance(raw, dict) or not isinstance(raw.get('history'), list):
      raise ValueError(
          f'{where}: need an object with a list "history", such as '
          '{"user": "u1", "history": ["Heat (1995)"], "question": '
          '"next_item"}.'
      )
    user = raw.get('user')
    user = '' if user is None else str(user)
    try:
      user.encode()
    except UnicodeEncodeError as error:
      raise ValueError(
          f'{where}: "user" is no text that can be written ({error}).'
      ) from None
    question = raw.get('question')
    if question is not None and not isinstance(question, str):
      raise ValueError(f'{where}: "question" must be a text, not {question!r}.')
    return Request(
        user=user,
        events=tuple(self._event(e, where) for e in raw['history']),
        question=question,
        about=self._about(raw, where),
        where=where,
    )

  def _about(self, raw: Mapping[str, Any], where: str) -> dict[str, int]:
    ids = {}
    if raw.get('item') is not None:
      ids['item'] = self._item(raw['item'], where)
    if raw.get('rating') is not None and 'rating' in self._asked.names:
      ids['rating'] = self._value(self._asked['rating'], raw['rating'], where)
    return ids

  def _event(self, event: Any, where: str) -> dict[str, int]:
    fields = event if isinstance(event, dict) else {'item': event}
    if 'item' not in fields:
      raise ValueError(f'{where}: event {event!r} has no "item".')
    item = self._item(fields['item'], where)
    ids = {'item': item}
    for modality in self._schema.modalities[1:]:
      value = fields.get(modality.name)
      if value is None and modality.separator is not None:
        # What is a property of the item need not be said.
        value = modality.separator.join(self._catalogue[item - 1].labels)
      ids[modality.name] = self._value(modality, value, where)
    return ids

  def _item(self, name: Any, where: str) -> int:
    text = str(name)
    if text in self._by_source_id:
      return self._by_source_id[text]
    found = self._by_title.get(text, [])
    if len(found) == 1:
      return found[0]
    if found:
      ids = ', '.join(self._catalogue[i - 1].source_id for i in found)
      raise ValueError(
          f'{where}: {len(found)} items are titled {text!r}; give an id: {ids}.'
      )
    raise ValueError(
        f'{where}: item {text!r} is neither an id nor a title of the '
        'catalogue. Titles must be exact, as in catalogue.jsonl.'
    )

  def _value(
      self, modality: schema_lib.Modality, value: Any, where: str
  ) -> int:
    known = self._ids[modality.name]
    if value is None:
      if _UNKNOWN in known:
        return known[_UNKNOWN]
      raise ValueError(
          f'{where}: this model reads {modality.name!r} of every event; '
          f'write {{"item": ..., "{modality.name}": ...}}.'
      )
    for text in (str(value), _as_number(value)):
      if text in known:
        return known[text]
    starts = self._starts[modality.name]
    if starts and (number := _float(value)) is not None:
      # What is less than all that trained is in the first.
      return max(1, bisect.bisect_right(starts, number))
    raise ValueError(
        f'{where}: {modality.name} {value!r} is unknown; the dataset has '
        f'{", ".join(list(known)[:12])}.'
    )


def _bucket_starts(values: Iterable[str]) -> list[float]:
  """[1, 2] of '[1.0, 2.0)', '[2.0, 8.0]', 'unknown'; [] of no such buckets."""
  found = [_BUCKET.fullmatch(value) for value in values if value != _UNKNOWN]
  return [float(match[1]) for match in found] if all(found) else []


def _float(value: Any) -> float | None:
  try:
    number = float(value)
  except (OverflowError, TypeError, ValueError):
    return None
  return number if math.isfinite(number) else None


def _as_number(value: Any) -> str:
  """5 and 5.0 and '5' are the same rating: '5' or '5.0', whichever is used."""
  number = _float(value)
  if number is None:
    return ''
  text = str(value)
  return str(number) if '.' not in text else f'{number:g}'


def batch(
    requests: Sequence[Request],
    schema: schema_lib.EventSchema,
    history_length: int,
    rows: int,
) -> dict[str, np.ndarray]:
  """The batch of some requests, in the keys of an evaluation.

  Args:
    requests: At most `rows`.
    schema: The modalities of the batch.
    history_length: L; only the last L events of each user are read.
    rows: B; the rest is padding with `example_id` -1.

  Returns:
    user_<modality>, positions, segment_ids i32[B, L]; user_mask bool[B, L];
    history_end i32[B, 1]; seen_item i32[B, S] of the whole history;
    example_id i32[B].
  """
  longest = max(1, *(len(r.events) for r in requests))
  # Rounded up: few shapes to compile.
  seen_item = np.zeros((rows, -(-longest // 64) * 64), np.int32)
  out = {
      f'user_{name}': np.zeros((rows, history_length), np.int32)
      for name in schema.names
  }
  ends = np.zeros((rows, 1), np.int32)
  for i, request in enumerate(requests):
    events = request.events[-history_length:]
    ends[i] = len(events)
    for name in schema.names:
      out[f'user_{name}'][i, : len(events)] = [e[name] for e in events]
    seen = sorted({e['item'] for e in request.events})
    seen_item[i, : len(seen)] = seen
  position = np.arange(history_length, dtype=np.int32)
  is_event = position < ends
  example_id = np.arange(rows, dtype=np.int32)
  return {
      **out,
      'positions': np.where(is_event, position, 0),
      'segment_ids': is_event.astype(np.int32),
      'user_mask': is_event,
      'history_end': ends,
      'seen_item': seen_item,
      'example_id': np.where(example_id < len(requests), example_id, -1),
  }
