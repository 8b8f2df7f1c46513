"""Tests of the Beam engine: the local engine's bytes, and going on."""

import pathlib
import tempfile

from small_sources import digests, make_raw
from data_prep import __main__ as command
from data_prep import cleaning
from data_prep import encoding
from data_prep import engine
from data_prep import raw as raw_lib
import private_files
import pytest

pytest.importorskip('apache_beam', reason="needs Beam: pip install '.[beam]'")
# pylint: disable=g-import-not-at-top,wrong-import-position
from data_prep import beam_engine
from data_prep import beam_runner
from data_prep import beam_work

_COLUMNS = (
    'user', 'item', 'timestamp', 'rating', 'price', 'value', 'label', 'review'
)
_CORE = cleaning.CleaningConfig(
    min_user_events=3, min_item_events=2, max_events_per_user=6
)


def _rows():
  """20 users who stay, and a chain of rare ones that takes several rounds."""
  rows = [
      (
          str(user), f'i{(user * 3 + t) % 7}', t // 2,
          (user + t) % 4 / 2, None if t == 2 else (user * t) % 9 / 10,
          ('b', 'a', '', '12', None)[(user + t) % 5], 'x' * (t % 2),
          '' if t == 3 else f'«{user}» {t}',
      )
      for t in range(8)
      for user in range(20, 0, -1)
  ]
  # Again, at the same time and at another one.
  rows += [rows[5], (*rows[9][:2], 99, *rows[9][3:]), rows[5]]
  for rare in range(4):
    rows += [
        (f'r{rare}', item, 5, 1.0, 0.5, 'c', 'x', 'rare')
        for item in (f'c{rare}', f'c{rare + 1}', 'i1')
    ]
  return rows


def _raw(tmp_path):
  rows = _rows()
  raw = make_raw(
      tmp_path,
      rows,
      _COLUMNS,
      items=[('i1', 'One', 'War'), ('i2', 'Two', ''), ('i3', '3', 'War')],
      label_name='genre',
      ticks_per_sec=3,
      num_event_rows=len(rows) + 1,
      texts=('review',),
      modalities=(
          raw_lib.RawModality(name='price', num_buckets=3),
          raw_lib.RawModality(name='value'),
          raw_lib.RawModality(name='label'),
      ),
      extra_files={'more.txt': 'more\n'},
  )
  raw.rejects.add('events', file='f', line=900, reason='no number')
  return raw


class _Runner(beam_runner.Runner):
  """Remembers what it ran, and may die."""

  def __init__(self, *options, dies_at=None):
    super().__init__(beam_runner.DIRECT, options)
    self.ran = []
    self._dies_at = dies_at

  def run(self, name, build):
    self.ran.append(name)
    super().run(name, build)
    if name == self._dies_at:
      raise InterruptedError(name)


def _prepare(tmp_path, runner, read=_raw):
  (directory, scratch) = (
      pathlib.Path(tempfile.mkdtemp(dir=tmp_path)) for _ in range(2)
  )
  beam_engine.prepare(
      read,
      directory=directory,
      scratch=scratch,
      work=beam_work.WorkDirectory(str(tmp_path / 'work'), {'name': 'toy'}),
      runner=runner,
      cleaning=_CORE,
      options={'command': 'toy'},
  )
  return directory


def test_goes_on_to_the_bytes_of_the_local_engine(tmp_path, monkeypatch):
  monkeypatch.setattr(encoding, '_EVENTS_PER_SHARD', 8)
  dies = _Runner(dies_at='k-core-02')
  with pytest.raises(InterruptedError):
    _prepare(tmp_path, dies)
  assert dies.ran == ['duplicates', 'k-core-01', 'k-core-02']

  def read(path):
    raise AssertionError(f'parsed again: {path}')

  goes_on = _Runner()
  found = _prepare(tmp_path, goes_on, read)
  rounds = [f'k-core-{n:02d}' for n in range(2, len(goes_on.ran))]
  assert goes_on.ran == [*rounds, 'values', 'records'] and len(rounds) > 2
  (tmp_path / 'local').mkdir()
  manifest = engine.prepare(
      _raw(tmp_path),
      directory=tmp_path / 'local',
      scratch=tmp_path,
      cleaning=_CORE,
      options={'command': 'toy'},
  )
  assert all(step['dropped'] for step in manifest['cleaning'])
  assert digests(found) == digests(tmp_path / 'local')
  sizes = [path.stat().st_size for path in found.glob('*.tfrecord-*')]
  assert len(sizes) > 9 and 0 in sizes


@pytest.mark.slow
def test_workers_of_their_own_on_another_file_system(tmp_path, monkeypatch):
  here = _prepare(tmp_path, _Runner(), _few)
  away = tmp_path / 'away'
  away.mkdir()
  monkeypatch.setattr(
      beam_work.WorkDirectory, 'is_local', property(lambda self: False)
  )
  workers = _Runner(
      '--direct_running_mode=multi_processing', '--direct_num_workers=2'
  )
  assert digests(_prepare(away, workers, _few)) == digests(here)
  (scratch,) = away.glob('*/*/events')
  assert any(scratch.iterdir()) and 'work' not in scratch.parts


def _few(folder):
  rows = [(str(user), f'i{t}', t) for user in range(3) for t in range(4)]
  return make_raw(folder, rows)


def test_nothing_left(tmp_path):
  with pytest.raises(ValueError, match=r'k_core dropped 1\). Lower --min_'):
    _prepare(tmp_path, _Runner(), lambda p: make_raw(p, [('u', 'i', 1)]))
  no_rows = tmp_path / 'no_rows'
  no_rows.mkdir()
  with pytest.raises(ValueError, match='nothing is left of 0 rows'):
    _prepare(no_rows, _Runner(), lambda p: make_raw(p, []))


@pytest.fixture(params=['movielens', 'amazon', 'table'])
def arguments(request, tmp_path, movielens_dir):
  if request.param == 'movielens':
    return ['movielens', f'--input={movielens_dir("csv", "ml-25m")}']
  folder = tmp_path / 'in'
  folder.mkdir()
  key = tmp_path / 'key'
  key.write_text('k' * 64)
  key.chmod(0o600)
  write = getattr(private_files, request.param)
  return [*write(folder), f'--user_key_file={key}', '--max_reject_fraction=0.2']


def test_command_gives_the_bytes_of_the_local_engine(arguments, tmp_path):
  local, beam = tmp_path / 'local', tmp_path / 'beam'
  arguments = [*arguments, '--max_events_per_user=3']
  assert command.main([*arguments, f'--output={local}']) == 0
  assert command.main(
      [*arguments, f'--output={beam}', '--engine=beam', '--',
       '--direct_num_workers=1']
  ) == 0
  assert digests(local) == digests(beam)
  # What was left for another attempt is gone.
  assert {p.name for p in tmp_path.iterdir()} <= {
      'local', 'beam', 'in', 'key', 'ml-25m'
  }


def test_too_much_for_the_direct_runner(
    movielens_dir, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(beam_runner, '_MAX_DIRECT_BYTES', 100)
  arguments = [
      'movielens', f'--input={movielens_dir()}', f'--output={tmp_path / "out"}'
  ]
  assert command.main([*arguments, '--engine=beam']) == 2
  error = capsys.readouterr().err
  assert 'bytes of input are more than the 100' in error
  assert 'Leave out --engine=beam' in error
  beam_runner.Runner('FlinkRunner', []).check_size(10**15)


def test_unknown_runner_and_options_of_a_known_one():
  with pytest.raises(ValueError, match='Unexpected pipeline runner: Flunk'):
    beam_runner.Runner('Flunk', [])
  runner = beam_runner.Runner('FlinkRunner', ['--flink_master=host:1'])
  options = runner.options.get_all_options(drop_default=True)
  assert options == {'runner': 'FlinkRunner', 'flink_master': 'host:1'}


def test_flags_of_beam_without_beam(movielens_dir, tmp_path, capsys):
  arguments = [
      'movielens', f'--input={movielens_dir()}', f'--output={tmp_path / "out"}'
  ]
  for flag in ('--runner=FlinkRunner', '--work_dir=x'):
    assert command.main([*arguments, flag]) == 2
    assert 'are for --engine=beam' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    command.main([*arguments, '--', '--flink_master=x'])
  assert 'after -- is for --engine=beam' in capsys.readouterr().err


def test_work_directory(tmp_path):
  path = tmp_path / 'work'
  attempts = []

  def build(directory):
    attempts.append(sorted(p.name for p in pathlib.Path(directory).iterdir()))
    (pathlib.Path(directory) / 'half').write_text('x')
    if len(attempts) == 1:
      raise InterruptedError
    return {'n': 1}

  work = beam_work.WorkDirectory(str(path), {'a': (1, None)})
  with pytest.raises(InterruptedError):
    work.stage('one', build)
  for _ in range(2):
    work = beam_work.WorkDirectory(str(path), {'a': (1, None)})
    assert work.stage('one', build) == {'n': 1}
  # What the first attempt had written did not stay.
  assert attempts == [[], []]
  with pytest.raises(ValueError, match='what another preparation left'):
    beam_work.WorkDirectory(str(path), {'a': (2, None)})
  work.delete()
  assert not path.exists()
  with pytest.raises(ValueError, match='holds other files'):
    (tmp_path / 'x').write_text('x')
    beam_work.WorkDirectory(str(tmp_path), {})
