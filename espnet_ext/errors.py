"""What a person reads when something is wrong with the input, and how a command ends then."""

import errno
import functools
import os
import sys
from collections.abc import Callable

#: Exit status "preempted: run me again" (EX_TEMPFAIL of sysexits.h).
RUN_AGAIN = 75

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """The input, an option or the machine is at fault; the message says what, where and what to do next.

    Commands print it as one ``error: ...`` line without a traceback, since the fault is not in the code.
    """


def main_guard(main: Callable) -> Callable:
    """Decorate a command's ``main``: a UserError, a full disk or Ctrl-C ends it with a message and a status.

    Returns:
        A function that returns the exit status: 0, 1 (UserError, OSError), 130 (Ctrl-C) or 141 (closed pipe).
    """

    @functools.wraps(main)
    def guarded(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
        except BrokenPipeError:
            # Whoever read our output has had enough (`... | head`); the rest must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:
            if error.filename is None and error.errno is None:
                raise
            where = f"{error.filename}: " if error.filename else ""
            again = "; make room and run it again" if error.errno in _FULL else ""
            print(f"error: {where}{error.strerror or error}{again}", file=sys.stderr)
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return 130
        return 1

    return guarded
