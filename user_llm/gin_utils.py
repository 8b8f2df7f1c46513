"""Reads gin files strictly: what gin lets pass in silence is an error here.

gin itself accepts a misspelt macro, a misspelt scope and a value of another
type on the command line, and runs with something else than was asked for.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import difflib
import os
import pathlib
import re
import tokenize
import traceback
from typing import Any

import gin

from user_llm import gin_text
from user_llm import gin_trust
from user_llm import signatures

CONFIG_FILE = 'config.gin'
DEFAULT_SEARCH_PATH = pathlib.Path(__file__).resolve().parent.parent / 'gin'

_GIN_PACKAGE = os.path.dirname(os.path.abspath(gin.__file__))
_KEY = re.compile(r'(?:(?P<scope>[\w/]+)/)?(?P<name>[A-Za-z_][\w.]*)')
# What Python and gin raise for a text that is none of gin's.
_MALFORMED = (SyntaxError, tokenize.TokenError, RecursionError, UnicodeError)
_REQUIRED = '%gin.REQUIRED'


def load_config(
    gin_files: Sequence[str],
    overrides: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    trust: bool = False,
) -> None:
  """Parses files, then overrides, checks everything and locks the config.

  Args:
    gin_files: Paths, absolute, relative to the working directory or to a search
      path. A later file wins over an earlier one.
    overrides: 'NAME=VALUE' or 'scope/module.Configurable.parameter=VALUE'.
    search_paths: Directories tried before the repository's `gin/`.
    trust: Whether files may import and name anything; see `gin_trust`.

  Raises:
    ValueError: A file is missing or malformed, or sets a macro or a scope that
      no file reads, an override names a macro, scope or parameter that no file
      knows or has another type than the file's value, a required macro is not
      set, or a value has not its parameter's type.
  """
  parse_files(gin_files, search_paths, trust)
  for override in overrides:
    _apply_override(override)
  _make_tuples()
  _check_required()
  _check_signatures()
  with _user_errors('gin files'):
    gin.finalize()


def parse_files(
    gin_files: Sequence[str],
    search_paths: Sequence[str] = (),
    trust: bool = False,
) -> None:
  """The first part of `load_config`: what is required may still be missing."""
  paths = [*search_paths, str(DEFAULT_SEARCH_PATH)]
  set_search_paths(paths)
  texts: dict[str, str] = {}
  for gin_file in gin_files:
    path = _find(gin_file, paths)
    with _user_errors(f'--gin_file={gin_file}'), gin_trust.guarded(
        paths, trust
    ) as found:
      gin.parse_config_file(str(path))
    texts |= found
  _check_names(texts, paths)


def clear() -> None:
  """Forgets all that was parsed."""
  gin.clear_config()


def set_search_paths(paths: Sequence[str]) -> None:
  """Where included files are looked for, after the working directory."""
  # pylint: disable=protected-access
  gin.config._LOCATION_PREFIXES[:] = ['', *paths]
  # The other reader looks into Python packages: a folder `runs` here is one to
  # Python, and `include 'runs/train.gin'` would fail.
  del gin.config._FILE_READERS[1:]


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
  """The entry function with its arguments bound by the parsed gin files."""
  try:
    return gin.get_configurable(function)
  except ValueError:
    name = f'{function.__module__.rsplit(".", 1)[-1]}.{function.__name__}'
    raise ValueError(
        f'None of the gin files sets a parameter of {name}: add a run file, as '
        f'in --gin_file=runs/{function.__name__}.gin.'
    ) from None


def bound(function: Callable[..., Any]) -> set[str]:
  """The parameters that the parsed files set of what `configured` returned."""
  return set(gin.get_bindings(function, resolve_references=False))


def config_text() -> str:
  """All bindings, used or not, in a form that gin parses again."""
  return gin.config_str()


def operative_config_text() -> str:
  """The bindings and defaults of what has been called so far."""
  return gin.operative_config_str()


def parsed_bindings() -> dict[str, str]:
  """All bindings of the parsed files as text: macros and parameters."""
  pairs = (line.split(' = ', 1) for line in gin_text.statements(gin.config_str()))
  return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _did_you_mean(name: str, candidates: Iterable[str]) -> str:
  close = difflib.get_close_matches(name, sorted(candidates), n=3, cutoff=0.6)
  return f' Did you mean {" or ".join(close)}?' if close else ''


def _find(gin_file: str, paths: Sequence[str]) -> pathlib.Path:
  for root in ('', *paths):
    if (path := pathlib.Path(root, gin_file)).is_file():
      return path.absolute()
  known = [
      str(path.relative_to(root))
      for root in paths
      for path in pathlib.Path(root).glob('**/*.gin')
  ]
  raise ValueError(
      f'--gin_file={gin_file}: no such file here or in {", ".join(paths)}.'
      + _did_you_mean(gin_file, known)
  )


@contextlib.contextmanager
def _user_errors(where: str) -> Iterator[None]:
  """Turns what gin raises into a ValueError; a bug of ours stays what it is."""
  try:
    yield
  except Exception as error:
    is_input = isinstance(error, (*_MALFORMED, gin_trust.Refused))
    if not is_input and not _raised_by_gin(error):
      raise
    message = re.sub(r'\s+in config string:.*', '', str(error), flags=re.DOTALL)
    if undefined := re.search(r"for '(\w+)/gin.macro'", message):
      name = undefined[1]
      message = f'The macro %{name} is used, but no file defines {name}.'
      message += _did_you_mean(name, _macros())
    raise ValueError(f'{where}: {message.strip()}') from error


def _raised_by_gin(error: Exception) -> bool:
  *_, last = traceback.extract_tb(error.__traceback__)
  return last.filename.startswith((_GIN_PACKAGE, '<frozen importlib'))


def _macros() -> list[str]:
  return [key for key in parsed_bindings() if '.' not in key and '/' not in key]


def _check_names(texts: Mapping[str, str], paths: Sequence[str]) -> None:
  """Raises where a file sets a macro, or in a scope, that no file reads.

  Args:
    texts: The files that were parsed, by path.
    paths: Whose files count too: what one mode sets, another may read.
  """
  others = [
      path.read_text(encoding='utf-8', errors='replace')
      for root in paths
      for path in pathlib.Path(root).rglob('*.gin')
      if path.is_file()
  ]
  known = ' '.join(
      line
      for text in (*texts.values(), *others)
      for line in gin_text.statements(text)
  )
  macros = set(re.findall(r'%([A-Za-z_]\w*)', known))
  found = re.findall(r'@([\w/]+)/[\w.]+', known)
  scopes = {part for scope in found for part in scope.split('/')}
  for path, text in texts.items():
    if pathlib.Path(path).name == CONFIG_FILE:
      continue  # Of a run; another version may have read more.
    for line in gin_text.statements(text):
      match = re.match(_KEY.pattern + r'\s*[=:]', line)
      if not match:
        continue
      for scope in (match['scope'] or '').split('/'):
        if scope and scope not in scopes:
          raise ValueError(
              f'{path}: `{line}`: no gin file uses the scope {scope!r}.'
              + _did_you_mean(scope, scopes)
          )
      if '.' not in match['name'] and match['name'] not in macros:
        raise ValueError(
            f'{path}: `{line}`: no gin file reads the macro {match["name"]}.'
            + _did_you_mean(match['name'], macros)
        )


def _check_required() -> None:
  bindings = parsed_bindings()
  unset = [key for key, value in bindings.items() if value == _REQUIRED]
  if unset:
    flags = ' '.join(f'--gin.{key}=...' for key in unset)
    raise ValueError(
        f'Not set, and without a default: {", ".join(unset)}. Add {flags}, or '
        'set it in a gin file.'
    )


def _make_tuples() -> None:
  """Makes lists of plain values tuples: configurations are hashed."""
  # pylint: disable=protected-access
  for bindings in gin.config._CONFIG.values():
    for parameter, value in bindings.items():
      bindings[parameter] = _as_tuple(value)


def _as_tuple(value: Any) -> Any:
  if not isinstance(value, (list, tuple)):
    return value
  found = tuple(map(_as_tuple, value))
  is_plain = all(isinstance(x, (str, int, float, tuple, type(None))) for x in found)
  return found if is_plain else value


def _check_signatures() -> None:
  """Raises if a plain value goes to a parameter of another type."""
  # pylint: disable=protected-access
  for (scope, selector), bindings in gin.config._CONFIG.items():
    function = gin.config._REGISTRY.get_match(selector).wrapped
    for parameter, value in bindings.items():
      source = repr(value).removeprefix('%')
      key = f'{scope}/{selector}.{parameter}'.removeprefix('/')
      wanted = signatures.wrong_type(function, parameter, _query(key))
      if wanted is not None and selector != 'gin.macro':
        name = f'{function.__name__}.{parameter}'
        raise ValueError(
            f'{name} = {source}: it takes {wanted}, not {_query(key)!r}.'
        )


def _apply_override(override: str) -> None:
  """Binds one 'NAME=VALUE' after checking that it means something."""
  key, equals, text = override.partition('=')
  flag = f'--gin.{override}'
  match = _KEY.fullmatch(key)
  if not equals or not match:
    raise ValueError(f'{flag}: write --gin.NAME=VALUE.')
  bindings = parsed_bindings()
  scope, is_macro = match['scope'], '.' not in match['name']
  if scope and scope not in (scopes := _scopes(bindings)):
    raise ValueError(
        f'{flag}: no gin file uses the scope {scope!r}.'
        + _did_you_mean(scope, scopes)
    )
  if is_macro and match['name'] not in (macros := _macros()):
    raise ValueError(
        f'{flag}: no gin file defines the macro {match["name"]}.'
        + _did_you_mean(match['name'], macros)
    )
  query = f'%{key}' if is_macro and not scope else key
  old = _query(query)
  try:
    gin.config.parse_value(text)
  except ValueError:
    pass  # A reference; it is resolved below, with the files' imports.
  except _MALFORMED:
    raise ValueError(
        f'{flag}: {text!r} is no gin value. A text needs its own quotes: '
        f"--gin.{key}='\"{text}\"'."
    ) from None
  # The imports make `module.Class` mean what it means in the files.
  imports = gin.config_str().split('\n\n', 1)[0]
  if not imports.startswith(('from ', 'import ')):
    imports = ''
  try:
    with _user_errors(flag):
      gin.parse_config(f'{imports}\n{key} = {text}\n')
  except ValueError as error:
    first_line = str(error).splitlines()[0]
    raise ValueError(first_line + _did_you_mean(key, bindings)) from error
  new = _query(query)
  _check_type(flag, key, old, new)
  if isinstance(old, float) and type(new) is int:
    gin.parse_config(f'{imports}\n{key} = {float(new)!r}\n')


def _scopes(bindings: dict[str, str]) -> set[str]:
  keys = {key.rpartition('/')[0] for key in bindings}
  references = re.findall(r'@([\w/]+)/[\w.]+', ' '.join(bindings.values()))
  return (keys | set(references)) - {''}


def _query(key: str) -> Any:
  """A macro's or parameter's value, macros resolved; None if there is none."""
  try:
    value = gin.query_parameter(key)
    while repr(value).startswith('%'):
      value = gin.query_parameter(repr(value))
  except ValueError:
    return None
  return value


def _check_type(flag: str, key: str, old: Any, new: Any) -> None:
  """Raises if an override's type is another than that of the file's value."""
  if old is None or old is gin.REQUIRED or new is None:
    return
  kinds = {type(old), type(new)}
  if len(kinds) == 1 or kinds == {list, tuple}:
    return
  if type(old) is float and type(new) is int:
    return
  if type(new).__name__ == 'ConfigurableReference':
    return
  if type(old) in (int, float) and isinstance(new, str):
    mend = f'Write the number without quotes: --gin.{key}={new}'
  elif type(old) is int and type(new) is float and new.is_integer():
    mend = f'Write --gin.{key}={int(new)}'
  elif isinstance(old, str):
    mend = f"Write it with quotes: --gin.{key}='\"{new}\"'"
  elif isinstance(old, bool):
    mend = f'Write --gin.{key}=True or --gin.{key}=False'
  else:
    mend = 'Give a value of that type'
  raise ValueError(
      f'{flag}: {new!r} is of type {type(new).__name__}, but the gin files set '
      f'{key} to {old!r}, of type {type(old).__name__}. {mend}.'
  )
