"""From edges that stay to record files, as a Beam pipeline."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import io
import pathlib
import tempfile

import apache_beam as beam
import numpy as np

from data_prep import beam_steps
from data_prep import beam_work
from data_prep import cleaning as cleaning_lib
from data_prep import encoding
from data_prep import tallies
from data_prep import writing
from user_llm.data import schema


_Joined = Mapping[str, Iterable[beam_steps.Row]]
# The dot keeps it apart from a source's own columns.
_LABEL = '.label'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
  """What makes records of users' events.

  Attributes:
    name: The dataset's.
    label_name: The modality of the items' labels, if there is one.
    starts: Of each column of numbers; see `encoding.numbers`.
    ids: Of each category, the ids of its values.
    texts: Columns of text.
    max_events: Of a user; None for no bound.
    num_shards: Record files.
    ticks_per_sec: See `raw.RawDataset`.
    users_are_integers: So that 9 comes before 10.
  """

  name: str
  label_name: str | None
  starts: Mapping[str, np.ndarray]
  ids: Mapping[str, Mapping[str, int]]
  texts: Sequence[str]
  max_events: int | None
  num_shards: int
  ticks_per_sec: int
  users_are_integers: bool

  @property
  def columns(self) -> Mapping[str, type[np.generic]]:
    """Of `encoding.Histories`."""
    labels = () if self.label_name is None else (self.label_name,)
    ids = ('item', *labels, *self.starts, *self.ids)
    return {**dict.fromkeys(ids, np.int32), schema.TIMESTAMP_KEY: np.int64}


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
  """A user's record; see `encoding.Histories`, and the events' texts."""

  user: str
  columns: Mapping[str, np.ndarray]
  texts: Mapping[str, list[str]]


_Sharded = tuple[int, History | None]


def write_records(
    pipeline: beam.Pipeline,
    *,
    edges: str,
    items: str,
    events: str,
    encoder: Encoder,
    directory: str,
) -> None:
  """Writes the record files, and beside each what is described of it later.

  Args:
    pipeline: The pipeline.
    edges: The events that stay.
    items: Of each item its ids: item, id, label.
    events: All events, for their texts.
    encoder: Makes the records.
    directory: Where to write.
  """
  coded = (
      {
          'edges': beam_steps.read_rows(pipeline, edges, 'item'),
          'ids': beam_steps.read_rows(pipeline, items, 'item'),
      }
      | 'Join items' >> beam.CoGroupByKey()
      | beam.FlatMap(_with_ids).with_output_types(tuple[str, beam_steps.Row])
  )
  of_users = {'edges': coded}
  if encoder.texts:
    columns = ['seq', 'user', *encoder.texts]
    of_users['texts'] = beam_steps.read_rows(pipeline, events, 'user', columns)
  histories = (
      of_users
      | 'Join texts' >> beam.CoGroupByKey()
      | beam.FlatMap(_history, encoder=encoder).with_output_types(_Sharded)
  )
  # A shard without users is a file too.
  shards = pipeline | beam.Create(
      [(shard, None) for shard in range(encoder.num_shards)]
  ).with_output_types(_Sharded)
  _ = (
      (histories, shards)
      | beam.Flatten()
      | 'Shards' >> beam.GroupByKey()
      | beam.ParDo(_WriteShard(encoder, directory))
  )


def _with_ids(
    of_item: tuple[str, _Joined]
) -> Iterator[tuple[str, beam_steps.Row]]:
  _, joined = of_item
  (ids,) = joined['ids']
  for edge in joined['edges']:
    yield edge['user'], {**edge, 'item': ids['id'], _LABEL: ids['label']}


def _history(
    of_user: tuple[str, _Joined], encoder: Encoder
) -> Iterator[tuple[int, History]]:
  """A user's record and its shard; nothing of a user whom no event is left."""
  user, joined = of_user
  edges = sorted(joined['edges'], key=lambda edge: edge['seq'])
  if not edges:
    return
  timestamps = np.array([edge['timestamp'] for edge in edges], np.int64)
  one_user = np.zeros(len(edges), np.int32)
  order = cleaning_lib.by_user_and_time(one_user, timestamps)
  is_kept = cleaning_lib.most_recent(
      np.array([0, len(edges)]), encoder.max_events
  )
  edges = [edges[i] for i in order[is_kept]]

  def column(name: str, dtype: type[np.generic]) -> np.ndarray:
    return np.array([edge[name] for edge in edges], dtype)

  columns = {'item': column('item', np.int32)}
  if encoder.label_name is not None:
    columns[encoder.label_name] = column(_LABEL, np.int32)
  for name, starts in encoder.starts.items():
    # None, where there is none, becomes NaN.
    columns[name] = encoding.number_ids(starts, column(name, np.float32))
  for name, ids in encoder.ids.items():
    columns[name] = np.array([ids[edge[name]] for edge in edges], np.int32)
  kept = timestamps[order][is_kept]
  columns[schema.TIMESTAMP_KEY] = kept // encoder.ticks_per_sec
  seqs = {edge['seq'] for edge in edges}
  rows = {r['seq']: r for r in joined.get('texts', ()) if r['seq'] in seqs}
  texts = {
      name: [rows[edge['seq']][name] or '' for edge in edges]
      for name in encoder.texts
  }
  yield encoding.shard_of(user, encoder.num_shards), History(
      user=user, columns=columns, texts=texts
  )


class _WriteShard(beam.DoFn):
  """Writes a record file of users in their natural order.

  It holds all of them: some two million events.
  """

  def __init__(self, encoder: Encoder, directory: str):
    self._encoder = encoder
    self._directory = directory

  def setup(self) -> None:
    self._tf = writing.load_tensorflow()

  def process(
      self, keyed: tuple[int, Iterable[History | None]]
  ) -> None:
    shard, given = keyed
    histories = [history for history in given if history is not None]
    natural = int if self._encoder.users_are_integers else str
    histories.sort(key=lambda history: natural(history.user))
    texts = tallies.TextTallies(self._encoder.texts)
    watched = texts.watch(history.texts for history in histories)
    users = (
        (h.user, {n: c.tolist() for n, c in h.columns.items()} | own)
        for h, own in zip(histories, watched)
    )
    with tempfile.TemporaryDirectory() as scratch:
      paths = writing.shard_paths(
          pathlib.Path(scratch), self._encoder.name, self._encoder.num_shards
      )
      path = paths[shard]
      num_bytes = writing.write_shard(self._tf, str(path), users)
      with path.open('rb') as handle:
        beam_work.publish(f'{self._directory}/{path.name}', handle)
    arrays = {
        'num_bytes': num_bytes,
        'offsets': np.cumsum([0, *(len(h.columns['item']) for h in histories)]),
        **{
            f'column:{name}': np.concatenate(
                [np.zeros(0, dtype), *(h.columns[name] for h in histories)]
            )
            for name, dtype in self._encoder.columns.items()
        },
        **{f'text:{name}': counts for name, counts in texts.counts.items()},
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    buffer.seek(0)
    beam_work.publish(_arrays_path(self._directory, shard), buffer)


def _arrays_path(directory: str, shard: int) -> str:
  return f'{directory}/arrays-{shard:05d}.npz'


class Shards:
  """The users of each record file, one file at a time in memory."""

  def __init__(self, directory: str, encoder: Encoder):
    self._directory = directory
    self._encoder = encoder

  def _load(self) -> Iterator[dict[str, np.ndarray]]:
    for shard in range(self._encoder.num_shards):
      data = beam_work.read(_arrays_path(self._directory, shard))
      with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        yield dict(arrays)

  def __iter__(self) -> Iterator[encoding.Histories]:
    for arrays in self._load():
      columns = {n: arrays[f'column:{n}'] for n in self._encoder.columns}
      yield encoding.Histories(offsets=arrays['offsets'], columns=columns)

  def sizes(self) -> list[int]:
    """Users of each."""
    return [len(arrays['offsets']) - 1 for arrays in self._load()]

  def num_bytes(self) -> int:
    """Of all records."""
    return sum(int(arrays['num_bytes']) for arrays in self._load())

  def texts(self) -> dict[str, np.ndarray]:
    """Lengths of the texts; see `tallies.Tallies`."""
    return {
        name: sum(arrays[f'text:{name}'] for arrays in self._load())
        for name in self._encoder.texts
    }
