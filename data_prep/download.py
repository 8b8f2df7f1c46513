"""Fetches MovieLens zips from GroupLens."""

import hashlib
import http.client
import os
import pathlib
import re
import sys
import urllib.error
import urllib.request

from data_prep import progress

BASE_URL = 'https://files.grouplens.org/datasets/movielens'
_CONNECT_SECS = 10
_BLOCK_BYTES = 1 << 20
# GroupLens lists it as subject to change and may publish no checksum of it.
_MAY_LACK_CHECKSUM = ('latest-small',)
_LICENCE = """\
MovieLens is (c) GroupLens, University of Minnesota. It may be used for
research; it may not be redistributed, or used commercially, without their
permission. Cite F. M. Harper and J. A. Konstan, "The MovieLens Datasets:
History and Context", ACM TiiS 5(4), 2015. The README in the zip has the terms.
"""


def fetch(
    size: str, *, directory: pathlib.Path, base_url: str = BASE_URL
) -> pathlib.Path:
  """Downloads ml-<size>.zip, unless it is there.

  Its length must be what the server announced and its MD5 what the server has
  beside it as ml-<size>.zip.md5.

  Args:
    size: '100k', '1m', ...
    directory: Where to put it.
    base_url: Of the server's directory.

  Returns:
    The zip's path.

  Raises:
    ValueError: It cannot be fetched, or arrived damaged.
  """
  name = f'ml-{size}.zip'
  url = f'{base_url}/{name}'
  target = directory / name
  print(_LICENCE, file=sys.stderr)
  if target.is_file():
    print(f'data_prep: {target} is there already.', file=sys.stderr)
    return target
  # The target must never be a part of a file: rename when it is whole.
  partial = directory / f'.{name}.partial-{os.getpid()}'
  try:
    expected_md5 = _published_md5(
        f'{url}.md5', optional=size in _MAY_LACK_CHECKSUM
    )
    md5 = _download(url, partial)
    if expected_md5 is None:
      print(f'data_prep: {url} has no checksum.', file=sys.stderr)
    elif md5 != expected_md5:
      raise ValueError(
          f'{url} arrived with MD5 {md5}, but {url}.md5 says {expected_md5}; '
          'nothing is kept. Run again.'
      )
    os.replace(partial, target)
  except (OSError, http.client.HTTPException) as error:
    raise ValueError(
        f'cannot fetch {url} or its .md5: {error}. Fetch {url} by hand (and '
        f'compare with {url}.md5), put it at {target} and run again, or give '
        'its place with --input.'
    ) from error
  finally:
    partial.unlink(missing_ok=True)
  return target


def _published_md5(url: str, *, optional: bool) -> str | None:
  try:
    with urllib.request.urlopen(url, timeout=_CONNECT_SECS) as response:
      text = response.read(4096).decode('utf-8', 'replace')
  except urllib.error.HTTPError as error:
    if optional and error.code in (403, 404):
      return None
    raise
  # Both `<md5>  <file>` and `MD5 (<file>) = <md5>` are in use.
  match = re.search(r'\b[0-9a-f]{32}\b', text.lower())
  if match is None:
    raise ValueError(f'{url} holds no MD5: {text[:80]!r}.')
  return match[0]


def _download(url: str, target: pathlib.Path) -> str:
  """Returns the MD5 of what arrived, all of it."""
  digest = hashlib.md5(usedforsecurity=False)
  received = 0
  with urllib.request.urlopen(url, timeout=_CONNECT_SECS) as response:
    announced = response.headers.get('Content-Length')
    total = None if announced is None else int(announced)
    name = url.rsplit('/', 1)[-1]
    with (
        target.open('wb') as handle,
        progress.stage(f'fetch {name}', total=total, unit='B') as stage,
    ):
      while block := response.read(_BLOCK_BYTES):
        handle.write(block)
        digest.update(block)
        received += len(block)
        stage.advance(len(block))
  if total is not None and received != total:
    raise ValueError(
        f'{url} ended after {received:,} of {total:,} bytes; nothing is kept. '
        'Run again.'
    )
  return digest.hexdigest()
