"""Files that are there whole or not at all.

What `user_llm.atomic` is to the runs, whose code `launch` does not import.
"""

import os
import pathlib
import socket


def write(path: pathlib.Path, text: str) -> None:
  """Replaces a file, which several processes and hosts may do at once."""
  partial = path.with_name(f'.{path.name}.{socket.gethostname()}-{os.getpid()}')
  partial.write_text(text, encoding='utf-8')
  partial.replace(path)
