"""`python -m data_prep` of sources with private ids, from files to bytes."""

import gzip
import hashlib
import json
import subprocess
import sys

from data_prep import __main__ as command
from data_prep import privacy
import pytest

_USER = 'AKQ7RAWUSERID%03d'
_REVIEWER = 'Wilhelmina Rawname'


def _amazon(folder):
  rows = [
      {
          'reviewerID': _USER % (i % 4), 'asin': f'B{i % 3}', 'overall': 5.0,
          'reviewerName': _REVIEWER, 'unixReviewTime': 1000 + i,
          'summary': f'sum {i}', 'reviewText': f'text {i}',
      }
      for i in range(40)
  ]
  rows[7]['overall'] = 0.0
  rows[8]['unixReviewTime'] = _USER % 8
  with gzip.open(folder / 'reviews_X.json.gz', 'wt') as handle:
    handle.writelines(json.dumps(row) + '\n' for row in rows)
    handle.write(f'{{"reviewerID": "{_USER % 1}", broken\n')
    handle.write(repr(rows[0]) + '\n')
  return ['amazon_reviews', f'--input={folder}', '--name=x']


def _google(folder):
  rows = [
      {
          'user_id': _USER % (i % 4), 'name': _REVIEWER, 'rating': 1 + i % 5,
          'time': (1000 + i) * 1000, 'text': None, 'gmap_id': f'0x{i % 3}',
      }
      for i in range(42)
  ]
  rows[7]['rating'] = rows[8]['time'] = rows[9]['user_id'] = None
  with (folder / 'review-X.json').open('w') as handle:
    handle.writelines(json.dumps(row) + '\n' for row in rows)
  return ['google_local', f'--input={folder}', '--name=x']


def _table(folder):
  rows = [f'{_USER % (i % 4)},I{i % 3},{1000 + i}\n' for i in range(42)]
  rows[7:10] = [
      f'{_USER % 1},,5\n', f'{_USER % 2},I1,{_USER % 3}\n', f'{_USER % 1}\n'
  ]
  (folder / 'x.csv').write_text('u,i,t\n' + ''.join(rows))
  (folder / 'x.toml').write_text(
      'name = "x"\n[events]\nfiles = ["x.csv"]\nuser = "u"\nitem = "i"\n'
      'time = "t"\n'
  )
  return ['table', f'--description={folder / "x.toml"}']


@pytest.fixture(params=[_amazon, _google, _table])
def arguments(request, tmp_path):
  folder = tmp_path / 'in'
  folder.mkdir()
  return request.param(folder)


def _digests(directory):
  return {
      path.name: hashlib.sha256(path.read_bytes()).hexdigest()
      for path in directory.iterdir()
  }


def test_accounts_privacy_and_same_bytes(arguments, tmp_path, capfd):
  key = tmp_path / 'key'
  shared = [
      *arguments, f'--user_key_file={key}', '--max_reject_fraction=0.2'
  ]
  output = tmp_path / 'out'
  assert command.main(
      [*shared, '--create_user_key', f'--output={output}']
  ) == 0
  manifest = json.loads((output / 'manifest.json').read_text())
  dropped = sum(step['dropped'] for step in manifest['cleaning'])
  assert manifest['cleaning'][0]['dropped'] == 3
  assert manifest['cleaning'][0]['events'] == 42
  assert manifest['counts']['events'] + dropped == 42
  # Too many bad rows make a message; it must not show one.
  assert command.main(
      [*arguments, f'--user_key_file={key}', f'--output={tmp_path / "no"}']
  ) == 2
  captured = capfd.readouterr()
  assert '3 of 42 rows are bad' in captured.err
  written = [path.read_bytes() for path in output.rglob('*') if path.is_file()]
  for told in (*written, captured.err.encode(), captured.out.encode()):
    assert b'RAWUSERID' not in told and b'Rawname' not in told
    assert key.read_bytes().strip() not in told
  card = (output / 'data_card.html').read_text()
  hash_user = privacy.load_user_key(str(key)).hash
  assert not any(hash_user(_USER % i) in card for i in range(4))
  assert 'sum 5' not in card and 'text 5' not in card
  done = subprocess.run(
      [sys.executable, '-m', 'data_prep', *shared, f'--output={tmp_path}/b'],
      cwd=command.__file__.rsplit('/', 2)[0],
      check=True,
      capture_output=True,
  )
  assert b'RAWUSERID' not in done.stdout + done.stderr
  assert _digests(tmp_path / 'b') == _digests(output)


def test_without_a_key(arguments, tmp_path, monkeypatch, capsys):
  monkeypatch.delenv('USER_LLM_USER_KEY', raising=False)
  assert command.main([*arguments, f'--output={tmp_path / "out"}']) == 2
  assert '--user_key_file FILE (--create_user_key' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
