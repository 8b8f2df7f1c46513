"""Keyed hashes in the place of users' ids.

A plain hash of a small id space is undone by hashing all of it; one with a
secret key is not, and is the same for the same person in every file.
"""

import dataclasses
import hashlib
import hmac
import os
import pathlib
import secrets
import stat

import polars as pl

USER_KEY_VARIABLE = 'USER_LLM_USER_KEY'
_HASH_DIGITS = 32
_LEAST_KEY_CHARACTERS = 32


@dataclasses.dataclass(frozen=True)
class UserKey:
  """A secret; neither it nor a raw id is ever written or printed."""

  key: bytes = dataclasses.field(repr=False)

  @property
  def id(self) -> str:
    """Tells keys apart, in the manifest."""
    return hashlib.sha256(b'id' + self.key).hexdigest()[:8]

  def hash(self, user: str) -> str:
    """32 hex digits in the place of a raw id."""
    raw = user.encode('utf-8', 'surrogatepass')
    return hmac.digest(self.key, raw, 'sha256').hex()[:_HASH_DIGITS]

  def hash_all(self, users: pl.Series) -> pl.Series:
    """`hash` of each of a column of raw ids."""
    raw = users.unique()
    hashed = [self.hash(user) for user in raw]
    return users.replace_strict(raw, hashed, return_dtype=pl.String)


def load_user_key(path: str | None, *, create: bool = False) -> UserKey | None:
  """Reads the key of a file, or else of the environment.

  Args:
    path: Of a file that only its owner may read.
    create: Whether to make the file, with a new key, if it is absent.

  Returns:
    The key; None if neither is given.

  Raises:
    ValueError: The file is absent, others may read it, or the key is short.
  """
  if path is None:
    text = os.environ.get(USER_KEY_VARIABLE)
    return None if text is None else _user_key(text, f'${USER_KEY_VARIABLE}')
  file = pathlib.Path(path)
  if create and not file.exists():
    file.parent.mkdir(parents=True, exist_ok=True)
    # O_EXCL with the mode, so that nobody can read it even for a moment.
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, 'w') as handle:
      handle.write(secrets.token_hex() + '\n')
  if not file.is_file():
    raise ValueError(
        f'--user_key_file {file} does not exist; give --create_user_key to '
        'make it with a new key. Keep it: without it nobody can be forgotten.'
    )
  mode = stat.S_IMODE(file.stat().st_mode)
  if mode & 0o077:
    raise ValueError(
        f'--user_key_file {file} has mode {mode:04o}, so others can use the '
        f'key: `chmod 600 {file}`.'
    )
  return _user_key(file.read_text(), f'--user_key_file {file}')


def _user_key(text: str, where: str) -> UserKey:
  if len(text.strip()) < _LEAST_KEY_CHARACTERS:
    raise ValueError(
        f'{where} holds a key of {len(text.strip())} characters; it must have '
        f'{_LEAST_KEY_CHARACTERS} or more, as `openssl rand -hex 32` makes it.'
    )
  return UserKey(text.strip().encode())


def required_user_key(
    path: str | None, *, create: bool, command: str
) -> UserKey:
  """`load_user_key` where a source's ids are real identities."""
  key = load_user_key(path, create=create)
  if key is None:
    raise ValueError(
        f'{command} holds private user ids, which are written as keyed hashes '
        'only: give --user_key_file FILE (--create_user_key makes it) or set '
        f'{USER_KEY_VARIABLE}.'
    )
  return key
