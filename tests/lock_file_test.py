"""What is installed is named byte for byte, and nothing else gets in."""

import configparser
import pathlib
import re

from packaging import requirements
import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_FILES = ('requirements-build.lock', 'requirements.lock')


def _locked(name: str) -> dict[str, tuple[str, list[str]]]:
  """Version and digests of each requirement of a lock file."""
  text = (_ROOT / name).read_text().replace('\\\n', ' ')
  found = {}
  for line in text.splitlines():
    if line.startswith(('#', '-r ')) or not line.strip():
      continue
    requirement, *digests = line.split()
    match = re.fullmatch(r'([\w.-]+)==([\w.+!-]+)', requirement)
    assert match, line[:100]
    found[_plain(match[1])] = (match[2], digests)
  return found


def _plain(name: str) -> str:
  return re.sub(r'[-_.]+', '-', name).lower()


@pytest.mark.parametrize('name', _FILES)
def test_all_have_digests(name):
  locked = _locked(name)
  assert locked
  for version, digests in locked.values():
    assert version and digests
    for digest in digests:
      assert re.fullmatch(r'--hash=sha256:[0-9a-f]{64}', digest), digest
    assert len(set(digests)) == len(digests)


def test_what_is_required_is_locked():
  config = configparser.ConfigParser()
  config.read(_ROOT / 'setup.cfg')
  extras = config['options.extras_require']
  lines = '\n'.join(
      [config['options']['install_requires'], extras['test'], extras['beam']]
  )
  locked = _locked('requirements.lock')
  for line in filter(None, map(str.strip, lines.splitlines())):
    if line.startswith('#'):
      continue
    requirement = requirements.Requirement(line)
    version, _ = locked[_plain(requirement.name)]
    assert requirement.specifier.contains(version), line


def test_only_what_is_locked_is_installed():
  """Also by the image; what builds sources is not fetched behind our back."""
  assert '-r requirements-build.lock' in (_ROOT / 'requirements.lock').read_text()
  for name in ('launch/install', 'launch/Dockerfile'):
    text = (_ROOT / name).read_text().replace('\\\n', ' ')
    text = '\n'.join(
        line
        for line in text.splitlines()
        if not line.startswith('#') and '"$@"' not in line
    )
    for part in re.split(r'&&|\n', text):
      if re.search(r'\bpip (install|--)', part) and 'jax[' not in part:
        assert '--require-hashes' in part or (
            '--no-deps' in part and '--no-build-isolation' in part
        ), part
