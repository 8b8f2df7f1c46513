#!/usr/bin/env python3
"""Start-up script of each Cloud TPU VM: mounts, then becomes the container.

It runs alone, as root, on the VM's own Python (3.8 or newer). What to do is in
the VM's metadata under `user-llm-job`, which `backends/tpu_vm.py` writes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

_METADATA = 'http://metadata.google.internal/computeMetadata/v1/instance/'
_GCSFUSE = 'https://packages.cloud.google.com/apt'
_CONTAINER = 'user-llm'


def main():
  """Returns only if something fails."""
  job = json.loads(_metadata('user-llm-job'))
  for mount, source in job['volume'].items():
    _mount(mount, source)
  environment = dict(os.environ, HOME='/root')
  for name, secret in job['secret'].items():
    environment[name] = _output(
        'gcloud', 'secrets', 'versions', 'access', 'latest',
        '--secret=' + secret,
    )
  registry = job['image'].split('/')[0]
  if registry.endswith(('pkg.dev', 'gcr.io')):
    _output('gcloud', 'auth', 'configure-docker', registry, '--quiet')
  subprocess.run(['docker', 'rm', '--force', _CONTAINER], check=False)
  argv = docker_argv(job, _worker())
  os.execvpe(argv[0], argv, environment)


def docker_argv(job, worker):
  """The container's command line; secrets are only named in it."""
  argv = [
      'docker', 'run', '--rm', '--name=' + _CONTAINER,
      # Both are what libtpu needs.
      '--privileged', '--network=host',
      '--stop-timeout=%d' % job['grace_secs'],
      '--env=USER_LLM_WORKER=%d' % worker,
  ]
  argv += ['--env=' + name for name in job['secret']]
  argv += ['--volume=%s:%s' % (mount, mount) for mount in job['volume']]
  return argv + [job['image']] + job['command']


def _worker():
  """The number of this host in the whole job."""
  worker = int(_metadata('agent-worker-number', '0'))
  settings = _metadata('tpu-env', '')
  found = re.search(r"^MEGASCALE_SLICE_ID:\s*'?(\d+)", settings, re.MULTILINE)
  if not found:
    return worker
  endpoints = _metadata('worker-network-endpoints', '')
  return int(found.group(1)) * len(endpoints.split(',')) + worker


def _metadata(name, default=None):
  request = urllib.request.Request(
      _METADATA + 'attributes/' + name, headers={'Metadata-Flavor': 'Google'}
  )
  try:
    with urllib.request.urlopen(request, timeout=30) as reply:
      return reply.read().decode()
  except urllib.error.HTTPError:
    if default is None:
      raise
    return default


def _mount(mount, source):
  """Mounts 'gs://BUCKET/FOLDER'."""
  if shutil.which('gcsfuse') is None:
    _install_gcsfuse()
  if os.path.ismount(mount):  # The VM was restarted.
    return
  os.makedirs(mount, exist_ok=True)
  bucket, _, folder = source[len('gs://') :].partition('/')
  only = ['--only-dir=' + folder] if folder else []
  # A checkpoint is done when its folder has been renamed; the most files of one
  # that may be, where the default is none.
  limit = '--rename-dir-limit=200000'
  _output('gcsfuse', '--implicit-dirs', limit, *only, bucket, mount)


def _install_gcsfuse():
  release = _output('lsb_release', '-c', '-s')
  key = urllib.request.urlopen(_GCSFUSE + '/doc/apt-key.gpg').read()
  with open('/usr/share/keyrings/cloud.google.asc', 'wb') as file:
    file.write(key)
  with open('/etc/apt/sources.list.d/gcsfuse.list', 'w') as file:
    file.write(
        'deb [signed-by=/usr/share/keyrings/cloud.google.asc] %s gcsfuse-%s '
        'main\n' % (_GCSFUSE, release)
    )
  _output('apt-get', 'update')
  _output('apt-get', 'install', '--yes', 'gcsfuse')


def _output(*argv):
  result = subprocess.run(argv, stdout=subprocess.PIPE, check=False)
  if result.returncode:
    sys.exit('%s failed with exit code %d.' % (argv[0], result.returncode))
  return result.stdout.decode().strip()


if __name__ == '__main__':
  main()
