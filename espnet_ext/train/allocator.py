"""Memory that is freed stays with the process, in large pages: each step asks for the same tensors again.

By default glibc gives every large tensor back to the kernel and asks for it again, zeroed page by page, at
the next step: a tenth of a step on a CPU.
"""

import os
import platform
import sys

#: Settings of glibc's malloc; it reads them when a program starts.
TUNABLES = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", f"mmap_threshold={4 * 10**9}", f"trim_threshold={8 * 10**9}")
)


def keep_freed_memory() -> None:
    """Start this very command again with `TUNABLES`, unless GLIBC_TUNABLES is set (to anything) already.

    The process keeps its number, its files and its arguments. Only where there is glibc.
    """
    if "GLIBC_TUNABLES" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
