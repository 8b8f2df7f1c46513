"""Cleans, encodes and writes a dataset on a cluster, by Apache Beam.

This machine parses, since a gzip cannot be split and users' raw ids and their
key shall not leave it. The cluster groups, joins and sorts events, with the
functions of the local engine, so that the same bytes come out. In between, this
machine numbers the values, and in the end it describes the dataset, a record
file at a time.

A preparation that dies goes on from the last stage that it had finished; each
round of the k-core is a stage.

  python -m data_prep amazon_reviews --input=/data/amazon --name=amazon \\
      --output=/data/prepared --user_key_file=key --engine=beam \\
      --runner=FlinkRunner --work_dir=/shared/amazon -- --flink_master=host:8081
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import io
import itertools
import json
import pathlib
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq

from data_prep import beam_records
from data_prep import beam_runner
from data_prep import beam_steps
from data_prep import beam_vocabulary
from data_prep import beam_work
from data_prep import cleaning as cleaning_lib
from data_prep import description
from data_prep import progress
from data_prep import raw as raw_lib
from data_prep import writing

_RAW_FILE = 'raw.json'
_DUPLICATES = 'duplicates'
_Step = dict[str, Any]


def prepare(
    read: Callable[[pathlib.Path], raw_lib.RawDataset],
    *,
    directory: pathlib.Path,
    scratch: pathlib.Path,
    work: beam_work.WorkDirectory,
    runner: beam_runner.Runner,
    cleaning: cleaning_lib.CleaningConfig,
    options: Mapping[str, Any],
) -> dict[str, Any]:
  """Cleans, encodes and writes a dataset.

  Args:
    read: Parses the source into a directory that it is given.
    directory: Where to write.
    scratch: For files of this machine.
    work: What this machine and the workers share.
    runner: Runs the pipelines.
    cleaning: Which events stay.
    options: The command's options, for the manifest.

  Returns:
    The manifest.

  Raises:
    ValueError: No event stays.
  """
  preparation = _Preparation(work, runner, cleaning)
  raw, columns = preparation.parse(read, scratch)
  steps = [raw.parse_step]
  edges = preparation.clean(columns, steps)
  if not steps[-1]['events'] - steps[-1]['dropped']:
    raise ValueError(cleaning_lib.nothing_left(raw.name, steps))
  vocabulary = preparation.number(raw, columns, edges, steps)
  shards = preparation.write_records(edges, vocabulary)
  with progress.stage('fetch records'):
    for path in writing.shard_paths(
        directory, raw.name, vocabulary.encoder.num_shards
    ):
      beam_work.fetch(work.path('records', path.name), path)
  writing.write_dataset_info(
      directory, vocabulary.schema, shards.sizes(), shards.num_bytes()
  )
  return description.write(
      raw,
      directory=directory,
      event_schema=vocabulary.schema,
      catalogue=vocabulary.catalogue,
      parts=shards,
      texts=shards.texts(),
      steps=steps,
      options=options,
  )


class _Preparation:
  """The stages; each is skipped if an earlier attempt has finished it."""

  def __init__(
      self,
      work: beam_work.WorkDirectory,
      runner: beam_runner.Runner,
      cleaning: cleaning_lib.CleaningConfig,
  ):
    self._work = work
    self._runner = runner
    self._config = cleaning
    self._events = ''

  def parse(
      self,
      read: Callable[[pathlib.Path], raw_lib.RawDataset],
      scratch: pathlib.Path,
  ) -> tuple[raw_lib.RawDataset, beam_steps.Columns]:
    """Parses the source, on this machine, to where workers can read it."""

    def build(directory: str) -> dict[str, Any]:
      folder = pathlib.Path(directory) if self._work.is_local else scratch
      raw = read(folder)
      self._runner.check_size(sum(s['bytes'] for s in raw.sources.values()))
      parts = sorted(raw.events.iterdir())
      if not self._work.is_local:
        for path in (*parts, raw.items):
          with path.open('rb') as handle:
            name = path.relative_to(folder).as_posix()
            beam_work.publish(f'{directory}/{name}', handle)
      text = json.dumps(raw.to_json()).encode()
      beam_work.publish(f'{directory}/{_RAW_FILE}', io.BytesIO(text))
      return {
          'columns': pq.read_schema(parts[0]).names if parts else [],
          'events': raw.events.relative_to(folder).as_posix(),
          'items': raw.items.relative_to(folder).as_posix(),
      }

    written = self._work.stage('parse', build)
    text = beam_work.read(self._work.path('parse', _RAW_FILE))
    raw = raw_lib.RawDataset.from_json(json.loads(text))
    items = scratch / raw.items.name
    beam_work.fetch(self._work.path('parse', written['items']), items)
    raw = dataclasses.replace(raw, items=items)
    if not written['columns']:
      raise ValueError(cleaning_lib.nothing_left(raw.name, [raw.parse_step]))
    self._events = self._work.path('parse', written['events'], '*.parquet')
    return raw, beam_steps.Columns(
        numbers=raw.numbers(written['columns']), categories=raw.categories
    )

  def clean(
      self, columns: beam_steps.Columns, steps: list[_Step]
  ) -> str:
    """Takes the steps of the cleaning; returns where the edges are."""
    before = steps[-1]['events'] - steps[-1]['dropped']
    edges, left = self._edges(
        _DUPLICATES,
        functools.partial(
            beam_steps.drop_copies, events=self._events, columns=columns
        ),
    )
    steps.append(
        {'step': 'duplicates', 'events': before, 'dropped': before - left}
    )
    edges, in_core = self._k_core(columns, edges, left)
    steps.append({'step': 'k_core', 'events': left, 'dropped': left - in_core})
    return edges

  def _k_core(
      self, columns: beam_steps.Columns, edges: str, left: int
  ) -> tuple[str, int]:
    """Drops rare users and items, round by round, until none is left."""
    if self._config.min_user_events == self._config.min_item_events == 1:
      return edges, left
    for number in itertools.count(1):
      before = left
      edges, left = self._edges(
          f'k-core-{number:02d}',
          functools.partial(
              beam_steps.k_core_round,
              edges=edges,
              columns=columns,
              config=self._config,
          ),
      )
      if left in (0, before):
        return edges, left
    raise AssertionError

  def number(
      self,
      raw: raw_lib.RawDataset,
      columns: beam_steps.Columns,
      edges: str,
      steps: list[_Step],
  ) -> beam_vocabulary.Vocabulary:
    """Counts values and gives them ids; counts what the length cap cuts."""
    self._run(
        'values',
        functools.partial(
            beam_steps.count_values, edges=edges, columns=columns
        ),
    )
    values = beam_vocabulary.Values(
        self._work.path(_DUPLICATES), self._work.path('values')
    )
    longest = self._config.max_events_per_user
    before, kept = (
        beam_vocabulary.num_kept(values.lengths(), bound)
        for bound in (None, longest)
    )
    steps.append(
        {'step': 'length_cap', 'events': before, 'dropped': before - kept}
    )
    return beam_vocabulary.number_values(raw, columns, values, longest)

  def write_records(
      self, edges: str, vocabulary: beam_vocabulary.Vocabulary
  ) -> beam_records.Shards:
    """Writes the record files."""

    def build(pipeline: beam.Pipeline, directory: str) -> None:
      buffer = io.BytesIO()
      vocabulary.items.write_parquet(buffer)
      buffer.seek(0)
      items = f'{directory}/items.parquet'
      beam_work.publish(items, buffer)
      beam_records.write_records(
          pipeline,
          edges=edges,
          items=items,
          events=self._events,
          encoder=vocabulary.encoder,
          directory=directory,
      )

    self._run('records', build)
    records = self._work.path('records')
    return beam_records.Shards(records, vocabulary.encoder)

  def _run(
      self, name: str, build: Callable[[beam.Pipeline, str], None]
  ) -> None:
    """Runs a stage of one pipeline."""

    def run(directory: str) -> dict[str, Any]:
      self._runner.run(name, lambda pipeline: build(pipeline, directory))
      return {}

    self._work.stage(name, run)

  def _edges(
      self, name: str, build: Callable[[beam.Pipeline, str], None]
  ) -> tuple[str, int]:
    """`_run` of what writes edges: where they are, and how many."""
    self._run(name, build)
    edges = beam_steps.parts(self._work.path(name), 'edges')
    return edges, beam_work.num_rows(edges)
