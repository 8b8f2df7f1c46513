"""Fetches what `download_registry` lists: over HTTPS, resumed, checked."""

from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import http
import http.client
import os
import pathlib
import re
import sys
import time
from typing import IO
import urllib.error
import urllib.request

from data_prep import download_registry
from data_prep import progress

_SCHEMES = ('https://',)
_TIMEOUT_SECS = 60
_PAUSE_SECS = 5
_ATTEMPTS = 5
_BLOCK_BYTES = 1 << 20
_MAGIC = {'.gz': b'\x1f\x8b', '.zip': b'PK\x03\x04'}
_NETWORK_ERRORS = (OSError, http.client.HTTPException)


def fetch(
    name: str, part: str, *, directory: pathlib.Path
) -> list[pathlib.Path]:
  """Fetches the files of one part of a source, but for those that are there.

  Args:
    name: Of the source, in `download_registry.SOURCES`.
    part: '1m', 'All_Beauty', 'Vermont', ...
    directory: Where to put them.

  Returns:
    Their paths. Beside each is its checksum, as `sha256sum` writes it.

  Raises:
    ValueError: One cannot be fetched, or arrived damaged.
  """
  source = download_registry.SOURCES[name]
  if not re.fullmatch(r'[A-Za-z0-9_-]+', part):
    raise ValueError(f'part {part!r} of {name} must be {source.part}.')
  print(source.terms, file=sys.stderr)
  directory.mkdir(parents=True, exist_ok=True)
  paths = []
  for template in source.urls:
    url = template.format(part=part)
    paths.append(directory / url.rsplit('/', 1)[-1])
    if paths[-1].is_file():
      print(f'data_prep: {paths[-1]} is there already.', file=sys.stderr)
      continue
    md5_url = f'{url}.md5' if source.has_md5 else None
    try:
      _fetch_file(url, paths[-1], md5_url, part in source.lack_md5)
    except _NETWORK_ERRORS as error:
      raise ValueError(
          f'cannot fetch {url}: {error}. Run again to go on from where it '
          f'stopped, or fetch it by hand and put it at {paths[-1]}. (A part of '
          f'{name} is {source.part}.)'
      ) from error
  return paths


def _fetch_file(
    url: str, target: pathlib.Path, md5_url: str | None, may_lack_md5: bool
) -> None:
  md5 = _published_md5(md5_url, may_lack_md5) if md5_url else None
  known = next(
      (k for end, k in download_registry.KNOWN.items() if url.endswith(end)),
      None,
  )
  # The target must never be a part of a file: rename when it is whole.
  partial = target.with_name(f'.{target.name}.partial')
  version = target.with_name(f'.{target.name}.version')
  with partial.open('ab') as handle:
    try:
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise ValueError(f'{target} is being fetched by another run.') from error
    try:
      _fill(url, handle, version)
      sha256 = _check(url, partial, md5, known)
    except ValueError:
      handle.truncate(0)
      raise
    finally:
      if not os.path.getsize(partial):
        partial.unlink()
        version.unlink(missing_ok=True)
    num_bytes = partial.stat().st_size
    os.replace(partial, target)
  version.unlink()
  target.with_name(f'{target.name}.sha256').write_text(
      f'{sha256}  {target.name}\n'
  )
  checked = 'as published' if md5 or known else 'upstream publishes none'
  print(
      f'data_prep: {target}: {num_bytes:,} bytes, sha256 {sha256} '
      f'(checksum: {checked})',
      file=sys.stderr,
  )


def _fill(url: str, handle: IO[bytes], version: pathlib.Path) -> None:
  """Fetches what the file lacks, several times if the line breaks."""
  for attempt in range(_ATTEMPTS):
    if attempt:
      time.sleep(_PAUSE_SECS)
    try:
      _fetch_rest(url, handle, version)
    except urllib.error.HTTPError as error:
      if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        # It is all there, or is another file's.
        if error.headers.get('Content-Range') == f'bytes */{handle.tell()}':
          return
        handle.truncate(0)
      elif error.code < 500:
        raise
      last_error = error
    except _NETWORK_ERRORS as error:
      last_error = error
    else:
      return
  raise last_error


def _fetch_rest(url: str, handle: IO[bytes], version: pathlib.Path) -> None:
  num_bytes = handle.seek(0, os.SEEK_END)
  headers = {}
  # Without a version, the rest could be that of another file.
  if num_bytes and version.exists() and (told := version.read_text()):
    headers = {'Range': f'bytes={num_bytes}-', 'If-Range': told}
  with _open(url, headers) as response:
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
      # All of it: the server cannot do parts, or the file has changed.
      num_bytes = 0
      handle.truncate(0)
      version.write_text(
          response.headers.get('ETag')
          or response.headers.get('Last-Modified')
          or ''
      )
    length = response.headers.get('Content-Length')
    total = None if length is None else num_bytes + int(length)
    with progress.stage(
        f'fetch {url.rsplit("/", 1)[-1]}', total=total, unit='B'
    ) as stage:
      stage.advance(num_bytes)
      while block := response.read(_BLOCK_BYTES):
        handle.write(block)
        num_bytes += len(block)
        stage.advance(len(block))
      handle.flush()
  if total is not None and num_bytes != total:
    raise ConnectionError(f'it ended after {num_bytes:,} of {total:,} bytes')


class _SafeRedirects(urllib.request.HTTPRedirectHandler):

  def redirect_request(self, req, fp, code, msg, headers, newurl):
    _check_scheme(newurl)
    return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
  if not url.startswith(_SCHEMES):
    raise ValueError(f'{url} is not fetched: it is no HTTPS.')


@contextlib.contextmanager
def _open(
    url: str, headers: dict[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
  _check_scheme(url)
  request = urllib.request.Request(url, headers=headers or {})
  opener = urllib.request.build_opener(_SafeRedirects)
  with opener.open(request, timeout=_TIMEOUT_SECS) as response:
    yield response


def _published_md5(url: str, may_be_absent: bool) -> str | None:
  try:
    with _open(url) as response:
      text = response.read(4096).decode('utf-8', 'replace')
  except urllib.error.HTTPError as error:
    if may_be_absent and error.code in (403, 404):
      return None
    raise
  # Both `<md5>  <file>` and `MD5 (<file>) = <md5>` are in use.
  match = re.search(r'\b[0-9a-f]{32}\b', text.lower())
  if match is None:
    raise ValueError(f'{url} holds no MD5: {text[:80]!r}.')
  return match[0]


def _check(
    url: str,
    path: pathlib.Path,
    md5: str | None,
    known: download_registry.Known | None,
) -> str:
  """Returns the SHA-256 of a file that is what it should be."""
  with path.open('rb') as handle:
    start = handle.read(4)
    handle.seek(0)
    found_md5 = md5 and hashlib.file_digest(
        handle, lambda: hashlib.md5(usedforsecurity=False)
    ).hexdigest()
    handle.seek(0)
    sha256 = hashlib.file_digest(handle, 'sha256').hexdigest()
  magic = next(m for suffix, m in _MAGIC.items() if url.endswith(suffix))
  if not start.startswith(magic):
    fault = f'begins with {start!r}, as no {url.rsplit(".", 1)[-1]} does'
  elif found_md5 != md5:
    fault = f'arrived with MD5 {found_md5}, but {url}.md5 says {md5}'
  elif known is not None and sha256 != known.sha256:
    fault = (
        f'arrived as {path.stat().st_size:,} bytes with SHA-256 {sha256}; '
        f'known are {known.num_bytes:,} bytes and {known.sha256}'
    )
  else:
    return sha256
  raise ValueError(f'{url} {fault}; nothing is kept. Run again.')
