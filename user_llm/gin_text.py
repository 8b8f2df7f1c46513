"""gin configurations as text, for who does not load them."""

from collections.abc import Iterator
import difflib
import re

# What a checkpoint depends on: a resumed run may not change it.
_MODEL_PACKAGES = (
    'user_llm.models',
    'user_llm.objectives',
    # The position in the data and its order.
    'user_llm.train.train.batch_size',
    'user_llm.train.train.seed',
)


def statements(config: str) -> Iterator[str]:
  """A config's statements, each on one line, without comments."""
  statement = ''
  for line in config.splitlines():
    if line.startswith(' '):
      statement = f'{statement.removesuffix(chr(92)).rstrip()} {line.strip()}'
      continue
    if statement:
      yield statement
    statement = '' if line.startswith('#') else line.rstrip()
  if statement:
    yield statement


def check_same_model(old: str, new: str, workdir: str) -> None:
  """Raises if two configs, as text, differ in what a checkpoint depends on."""
  diff = [
      line
      for line in difflib.unified_diff(
          model_section(old), model_section(new), lineterm='', n=0
      )
      if not line.startswith(('---', '+++', '@@'))
  ]
  if diff:
    raise ValueError(
        f'{workdir} has checkpoints of another training (- then, + now):\n  '
        + '\n  '.join(diff)
        + '\nGive another --workdir, or the values it was trained with.'
    )


def model_section(config: str) -> list[str]:
  """What a checkpoint depends on in a config's text, macros resolved.

  Args:
    config: What `config_text` returned, here or in another process.

  Returns:
    Lines 'module.Class.parameter = value', sorted.
  """
  modules, bindings = {}, {}
  for line in statements(config):
    if match := re.fullmatch(
        r'(?:from (\S+) )?import (\S+)(?: as (\S+))?', line
    ):
      package, module, alias = match.groups()
      full_name = f'{package}.{module}' if package else module
      modules[alias or module] = full_name
    elif match := re.fullmatch(r'([\w./]+) = (.*)', line):
      bindings[match[1]] = match[2]

  def resolve(value: str) -> str:
    return re.sub(
        r'%([A-Za-z_]\w*(?![\w.]))',
        lambda m: resolve(bindings[m[1]]) if m[1] in bindings else m[0],
        value,
    )

  section = []
  for key, value in bindings.items():
    scope, slash, selector = key.rpartition('/')
    for name, module in modules.items():
      full_name = module + selector.removeprefix(name)
      if selector.startswith(f'{name}.') and full_name.startswith(
          _MODEL_PACKAGES
      ):
        section.append(f'{scope}{slash}{full_name} = {resolve(value)}')
        break
  return sorted(section)
