"""Tests of `python -m data_prep`, from the command line to the bytes."""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

from small_sources import MOVIES, RATINGS
from data_prep import __main__ as command
from data_prep import world
from data_prep.commands import synthetic
import numpy as np
import pytest
from user_llm.data import schema

_TINY_WORLD = (
    '--num_users=30',
    '--num_items=24',
    '--num_genres=4',
    '--num_tastes=2',
    '--num_themes=2',
    '--min_events=4',
    '--max_events=9',
)


def _digests(directory):
  return {
      path.name: hashlib.sha256(path.read_bytes()).hexdigest()
      for path in directory.iterdir()
  }


def _records(directory):
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(str(directory))
  return list(tfds.as_numpy(builder.as_dataset(split='train')))


def test_prepares_what_tfds_opens(movielens_dir, tmp_path, capsys):
  output = tmp_path / 'out'
  source = movielens_dir('csv_crlf', 'ml-25m')
  assert command.main(
      ['movielens', f'--input={source}', f'--output={output}']
  ) == 0
  assert '2 users, 4 items, 7 events' in capsys.readouterr().out
  records = _records(output)
  assert [r['user'] for r in records] == [b'7', b'10']
  catalogue = schema.load_catalogue(str(output))
  loaded = schema.load_schema(data_dir=str(output))
  assert loaded.name == 'movielens_25m'
  title_of = {i: t for i, t, _ in MOVIES}
  for record in records:
    expected = sorted(
        (row for row in RATINGS if str(row[0]).encode() == record['user']),
        key=lambda row: row[3],
    )
    assert record['timestamp'].tolist() == [row[3] for row in expected]
    titles = [catalogue[i - 1].title for i in record['item']]
    assert titles == [title_of[row[1]] for row in expected]
    ratings = [loaded['rating'].values[i - 1] for i in record['rating']]
    assert ratings == [str(row[2]) for row in expected]
    genres = [loaded['genre'].values[i - 1] for i in record['genre']]
    assert genres == ['|'.join(catalogue[i - 1].labels) for i in record['item']]
    assert record['item'].dtype == np.int32
    assert record['timestamp'].dtype == np.int64
  manifest = json.loads((output / 'manifest.json').read_text())
  digests = _digests(output)
  del digests['manifest.json']
  assert {n: f['sha256'] for n, f in manifest['files'].items()} == digests
  assert manifest['splits']['leave_one_out']['test'] == 2
  assert manifest['source']['ratings.csv']['bytes'] == (
      (source / 'ratings.csv').stat().st_size
  )
  assert str(tmp_path) not in (output / 'manifest.json').read_text()


@pytest.mark.parametrize(
    'unit, span, told',
    [
        ('s', '2016-09-01 to 2016-09-02', ''),
        (
            'ms',
            '1970-01-18 to 1970-01-18',
            'warning: times are 1970-01-18 to 1970-01-18: are time = "t" and '
            'time_unit = "ms" right?\n',
        ),
    ],
)
def test_tells_the_dates(unit, span, told, tmp_path, capsys):
  (tmp_path / 'x.csv').write_text('u,i,t\na,x,1472688000\nb,x,1472774400\n')
  (tmp_path / 'x.toml').write_text(
      'name = "x"\n[events]\nfiles = ["x.csv"]\nuser = "u"\nitem = "i"\n'
      f'time = "t"\ntime_unit = "{unit}"\n'
  )
  assert command.main([
      'table', f'--description={tmp_path / "x.toml"}',
      f'--output={tmp_path / "out"}', f'--user_key_file={tmp_path / "key"}',
      '--create_user_key',
  ]) == 0
  captured = capsys.readouterr()
  assert f' 0 rejects, {span} -> ' in captured.out
  assert captured.err.endswith(told)
  assert ('warning' in captured.err) == bool(told)


def test_rejected_rows_are_put_aside(movielens_dir, tmp_path):
  source = movielens_dir()
  with (source / 'ratings.csv').open('a') as handle:
    handle.write('7,1,great,99\n7,1,3.5,90\n')
  arguments = ['movielens', f'--input={source}', f'--output={tmp_path / "out"}']
  assert command.main(arguments) == 2
  assert command.main([*arguments, '--max_reject_fraction=0.2']) == 0
  output = tmp_path / 'out'
  (line,) = (output / 'rejects.jsonl').read_text().splitlines()
  assert json.loads(line) == {
      'file': 'ratings.csv',
      'line': 9,
      'reason': 'non-numeric rating',
      'row': '7,1,great,99',
  }
  manifest = json.loads((output / 'manifest.json').read_text())
  assert manifest['rejects'] == {
      'events': {'non-numeric rating': 1}, 'items': {}
  }
  assert manifest['cleaning'][:2] == [
      {'step': 'parse', 'events': 9, 'dropped': 1},
      {'step': 'duplicates', 'events': 8, 'dropped': 1},
  ]


def _run(*arguments):
  return subprocess.run(
      [sys.executable, '-m', 'data_prep', *arguments],
      cwd=pathlib.Path(command.__file__).parents[1],
      capture_output=True,
      text=True,
      check=False,
  )


def test_same_input_gives_the_same_bytes(movielens_dir, tmp_path):
  """From other places, in another process, from a directory or its zip."""
  source = movielens_dir('1m', 'ml-1m')
  with zipfile.ZipFile(tmp_path / 'x.zip', 'w') as archive:
    for path in source.iterdir():
      archive.write(path, f'ml-1m/{path.name}')
  moved = tmp_path / 'elsewhere' / 'ml-1m'
  shutil.copytree(source, moved)
  digests = []
  for i, place in enumerate((source, moved, tmp_path / 'x.zip')):
    output = tmp_path / f'out{i}'
    arguments = ['movielens', f'--input={place}', f'--output={output}']
    if i:
      assert command.main(arguments) == 0
    else:
      assert _run(*arguments).returncode == 0
    digests.append(_digests(output))
  assert len(digests[0]) == 8
  assert digests[0] == digests[1] == digests[2]


def test_synthetic(tmp_path):
  outputs = [tmp_path / name for name in 'abc']
  for output, seed in zip(outputs, (1, 1, 2)):
    assert command.main(
        ['synthetic', f'--output={output}', f'--seed={seed}', *_TINY_WORLD]
    ) == 0
  assert _digests(outputs[0]) == _digests(outputs[1])
  assert _digests(outputs[0]) != _digests(outputs[2])
  bayes = json.loads((outputs[0] / 'bayes.json').read_text())['leave_one_out']
  manifest = json.loads((outputs[0] / 'manifest.json').read_text())
  split = manifest['splits']['leave_one_out']
  assert bayes['split_fingerprint'] == split['fingerprint']
  assert bayes['n'] == split['test'] == 30
  for metric in ('recall@1', 'recall@5', 'recall@10', 'ndcg@10', 'mrr@10'):
    for policy in ('all', 'unseen'):
      assert set(bayes['metrics'][f'{metric}/{policy}']) == {'mean', 'stderr'}
  for record in _records(outputs[0]):
    assert len(set(record['item'].tolist())) == len(record['item'])
    assert (np.diff(record['timestamp']) > 0).all()


def test_user_errors_exit_2_with_one_message(movielens_dir, tmp_path):
  source = movielens_dir()
  (source / 'ratings.csv').write_text(
      'userId,movieId,rating,timestamp\n7,1,great,99\n'
  )
  done = _run('movielens', f'--input={source}', f'--output={tmp_path / "out"}')
  assert done.returncode == 2
  assert 'ratings.csv:2: non-numeric rating' in done.stderr
  assert done.stderr.count('error') == 1 and 'Traceback' not in done.stderr
  assert [path.name for path in tmp_path.iterdir()] == ['raw']


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['movielens', '--input=nowhere'], 'nowhere does not exist'),
        (['sequences', '--input=nowhere', '--name=x'], 'nowhere is no file'),
        (
            ['synthetic', '--num_items=3'],
            '--num_items must be at least 48 (--num_genres times --num_themes)'
            ', got 3.',
        ),
        (
            ['synthetic', '--num_items=80'],
            '--max_events must be from 25 to 40 (--min_events to half of '
            '--num_items), got 60, its default.',
        ),
        (
            ['movielens', '--input={source}', '--min_user_events=9'],
            'nothing is left of 7 rows (parse dropped 0, dupl',
        ),
        (
            ['movielens', '--input={source}', '--min_item_events=0'],
            '--min_item_events must be at least 1',
        ),
    ],
)
def test_messages(arguments, message, movielens_dir, tmp_path, capsys):
  source = movielens_dir()
  output = tmp_path / 'out'
  arguments = [argument.format(source=source) for argument in arguments]
  assert command.main([*arguments, f'--output={output}']) == 2
  error = capsys.readouterr().err
  assert error.splitlines()[-1].startswith('data_prep: error: ')
  assert message in error
  assert [path.name for path in tmp_path.iterdir()] == ['raw']


@pytest.mark.parametrize(
    'arguments, message',
    [
        ([], 'required'),
        (['movielens', '--output=x'], '--input'),
        (['movielens', '--output=x', '--download=3m'], 'invalid choice'),
        (['sequences', '--input=a', '--output=x', '--name=A b'], 'lower case'),
        (
            ['movielens', '--input=a', '--output=x', '--max_reject_fraction=2'],
            'between 0 and 1',
        ),
        (['synthetic', '--output=x', '--num_users=many'], 'invalid int'),
        (
            ['synthetic', '--output=x', '--users=5'],
            'data_prep synthetic: error: unrecognized arguments: --users=5; '
            'did you mean --num_users?\n',
        ),
        (
            ['synthetic', '--output=x', '--zzz', '5'],
            'unrecognized arguments: --zzz 5\n',
        ),
    ],
)
def test_bad_flags(arguments, message, capsys):
  with pytest.raises(SystemExit) as stopped:
    command.main(arguments)
  assert stopped.value.code == 2
  assert message in capsys.readouterr().err


def test_existing_output_is_kept(movielens_dir, tmp_path, capsys):
  source = movielens_dir()
  arguments = ['movielens', f'--input={source}', f'--output={tmp_path / "out"}']
  assert command.main(arguments) == 0
  before = _digests(tmp_path / 'out')
  assert command.main(arguments) == 2
  assert '--overwrite' in capsys.readouterr().err
  assert _digests(tmp_path / 'out') == before
  assert command.main([*arguments, '--overwrite']) == 0
  assert _digests(tmp_path / 'out') == before


def test_defaults_of_the_synthetic_world(capsys):
  config = world.WorldConfig()
  assert {n: default for n, (default, _) in synthetic.WORLD_SIZES.items()} == {
      name: getattr(config, name) for name in synthetic.WORLD_SIZES
  }
  with pytest.raises(SystemExit):
    command.main(['synthetic', '--help'])
  assert 'users (default: 4000)' in capsys.readouterr().out


def test_help_loads_nothing_heavy():
  code = (
      'import sys\nfrom data_prep import __main__\n'
      'try: __main__.main(["movielens", "--help"])\n'
      'except SystemExit: pass\n'
      'assert not {"tensorflow", "polars", "numpy", "jax"} & set(sys.modules)'
  )
  root = pathlib.Path(command.__file__).parents[1]
  subprocess.run([sys.executable, '-c', code], cwd=root, check=True)
