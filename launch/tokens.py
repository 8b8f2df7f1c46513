"""Finds secrets where only references to them may stand."""

import re

_TOKENS = re.compile(
    r'\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}'
    r'|glpat-[\w-]{16,}|A[KS]IA[A-Z0-9]{16}|AIza[\w-]{30,}|ya29\.[\w-]{20,}'
    r'|xox[abprs]-[\w-]{10,}|sk-[\w-]{20,}|eyJ[\w-]{10,}\.[\w-]{10,}'
    r'|dckr_pat_[\w-]{20,}|pypi-[\w-]{20,}|npm_[A-Za-z0-9]{20,})'
    r'|-----BEGIN [A-Z ]*PRIVATE KEY-----'
    r'|://[^/\s:@]+:[^/\s@]+@'
)
_NAMES = re.compile(
    r'(^|_)(TOKEN|SECRETS?|PASSWORDS?|PASSWD|CREDENTIALS?|API_?KEYS?'
    r'|ACCESS_KEYS?|PRIVATE_KEYS?)(_|$)',
    re.IGNORECASE,
)


def looks_secret(value: str) -> bool:
  """Whether a value has the form of a token, a key, or a URL's password."""
  return bool(_TOKENS.search(value))


def names_secret(name: str) -> bool:
  """Whether a variable of this name would hold a secret."""
  return bool(_NAMES.search(name))
