"""Starting again with other settings of malloc: the same process, the same arguments, once."""

import os
import subprocess
import sys

import pytest

from espnet_ext.train.allocator import TUNABLES

CODE = """
import os, sys
from espnet_ext.train.allocator import keep_freed_memory
print("start", os.getpid())
keep_freed_memory()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


@pytest.mark.parametrize("given, starts", [(None, 2), ("", 1), ("glibc.malloc.arena_max=2", 1)])
def test_starts_again_once_and_leaves_the_users_own_settings(given, starts):
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if given is not None:
        environment["GLIBC_TUNABLES"] = given
    command = [sys.executable, "-c", CODE, "a b", "$(c)"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    *begun, last = done.stdout.splitlines()
    assert len(begun) == starts and len(set(begun)) == 1  # the number of the process is the same
    assert last == f"{TUNABLES if given is None else given} ['a b', '$(c)']"
