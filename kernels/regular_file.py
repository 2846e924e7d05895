"""Opens files that somebody else may replace at any time with something that is no file."""

from __future__ import annotations

import errno
import os
import stat


def regular_file(path: str, flags: int) -> int:
    """Open a regular file: an `opener` for `open`, which waits for no pipe and follows no link.

    Raises:
        OSError: it is a link, folder, pipe or device, or can't be opened.
    """
    careful = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | careful)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a file")
    return descriptor
