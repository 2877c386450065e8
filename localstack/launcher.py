"""Starts LocalStack bound to loopback, with the init hooks of this folder; run by LocalStack's own interpreter.

Four things that its configuration can't say:

- its Twisted server drops the interface of an IPv4 address and listens on 0.0.0.0;
- outside its container it looks for init hooks under the state folder;
- it takes 2-3 s to stop, though it has nothing to keep;
- outside its container it has no index of AWS's APIs, and reads the specifications of all of AWS at every start: more
  than half of the CPU that a start takes. The index is made once, beside the packages that it depends on.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

from localstack.aws import spec
from localstack.logging.setup import setup_logging_from_config
from localstack.runtime import current
from twisted.internet import endpoints

from localstack import config


class _LoopbackEndpoint(endpoints.TCP4ServerEndpoint):
    def __init__(self, reactor, port):
        super().__init__(reactor, port, interface="127.0.0.1")


def _keep_index():
    config.dirs.static_libs = sys.prefix  # where LocalStack looks for it
    index = Path(sys.prefix, spec._get_catalog_filename())
    if not index.exists():
        part = index.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # a folder that can't be written: it does without
            spec.build_service_index_cache(str(part))
            part.replace(index)  # other systems may be starting too


def run():
    """Runs LocalStack until a signal ends the process."""
    endpoints.TCP4ServerEndpoint = _LoopbackEndpoint  # its server looks the class up when it binds
    config.dirs.init = str(Path(__file__).with_name("init"))
    _keep_index()
    setup_logging_from_config()
    runtime = current.initialize_runtime()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    runtime.run()


if __name__ == "__main__":
    run()
