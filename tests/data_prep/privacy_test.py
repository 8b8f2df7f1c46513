"""Tests of the key: who may read it, and what it makes of ids."""

import hashlib
import hmac
import stat

from data_prep import privacy
import polars as pl
import pytest

KEY = 'ab' * 32


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch):
  monkeypatch.delenv(privacy.USER_KEY_VARIABLE, raising=False)


def _write(path, mode=0o600, text=KEY + '\n'):
  path.write_text(text)
  path.chmod(mode)
  return str(path)


def test_hash_is_hmac_sha256(tmp_path):
  key = privacy.load_user_key(_write(tmp_path / 'key'))
  digest = hmac.new(KEY.encode(), 'Zoë'.encode(), hashlib.sha256).hexdigest()
  assert key.hash('Zoë') == digest[:32]
  assert key.id == hashlib.sha256(b'id' + KEY.encode()).hexdigest()[:8]
  hashed = key.hash_all(pl.Series('user', ['b', 'a', 'b']))
  assert hashed.to_list() == [key.hash(user) for user in 'bab']
  assert hashed.name == 'user'
  # JSON may hold halves of pairs.
  assert len(key.hash('\ud800')) == 32
  assert KEY not in repr(key)


@pytest.mark.parametrize('mode', [0o644, 0o640, 0o602, 0o601])
def test_others_may_not_read_the_key(tmp_path, mode):
  with pytest.raises(ValueError, match=f'mode {mode:04o}.*chmod 600'):
    privacy.load_user_key(_write(tmp_path / 'key', mode))


def test_a_key_is_made_once(tmp_path):
  path = tmp_path / 'key'
  with pytest.raises(ValueError, match='does not exist; .*--create_user_key'):
    privacy.load_user_key(str(path))
  made = privacy.load_user_key(str(path), create=True)
  assert stat.S_IMODE(path.stat().st_mode) == 0o600
  assert privacy.load_user_key(str(path), create=True) == made
  assert privacy.load_user_key(str(path)) == made
  other = privacy.load_user_key(str(tmp_path / 'new' / 'other'), create=True)
  assert other.id != made.id


def test_key_of_the_environment(tmp_path, monkeypatch):
  assert privacy.load_user_key(None) is None
  with pytest.raises(ValueError, match='toys holds private user ids'):
    privacy.required_user_key(None, create=False, command='toys')
  monkeypatch.setenv(privacy.USER_KEY_VARIABLE, 'cd' * 16)
  assert privacy.load_user_key(None).key == b'cd' * 16
  # A file that is given counts more.
  path = _write(tmp_path / 'key')
  assert privacy.load_user_key(path).key == KEY.encode()


def test_short_keys(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match='key holds a key of 6 characters'):
    privacy.load_user_key(_write(tmp_path / 'key', text='secret\n'))
  monkeypatch.setenv(privacy.USER_KEY_VARIABLE, 'secret')
  with pytest.raises(ValueError, match='USER_LLM_USER_KEY holds .* 32 or more'):
    privacy.load_user_key(None)
