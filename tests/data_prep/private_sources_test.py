"""`python -m data_prep` of sources with private ids, from files to bytes."""

import json
import subprocess
import sys

from small_sources import digests
from data_prep import __main__ as command
from data_prep import privacy
import private_files
import pytest


@pytest.fixture(params=private_files.SOURCES, ids=lambda write: write.__name__)
def arguments(request, tmp_path):
  folder = tmp_path / 'in'
  folder.mkdir()
  return request.param(folder)


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
  assert not any(hash_user(private_files.USER % i) in card for i in range(4))
  assert 'sum 5' not in card and 'text 5' not in card
  done = subprocess.run(
      [sys.executable, '-m', 'data_prep', *shared, f'--output={tmp_path}/b'],
      cwd=command.__file__.rsplit('/', 2)[0],
      check=True,
      capture_output=True,
  )
  assert b'RAWUSERID' not in done.stdout + done.stderr
  assert digests(tmp_path / 'b') == digests(output)


def test_without_a_key(arguments, tmp_path, monkeypatch, capsys):
  monkeypatch.delenv('USER_LLM_USER_KEY', raising=False)
  assert command.main([*arguments, f'--output={tmp_path / "out"}']) == 2
  assert '--user_key_file FILE (--create_user_key' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
