"""Answer the calls that a confined program has to ask about: starts of processes, and what names a process."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

from rdagent_sota_patch.sandbox.consumption import ProcessTree
from rdagent_sota_patch.sandbox.seccomp import naming_argument, starting_calls

# struct seccomp_notif and seccomp_notif_resp, include/uapi/linux/seccomp.h.
_RECEIVE, _WISH_SIZE = 0xC0502100, 80
_SEND, _CONTINUE = 0xC0182101, 1
_WISH = struct.Struct("=QIIiIQ6Q")


class AskedCalls:
    """The calls of the processes below this one, each held back by the kernel until it is answered.

    Processes and threads are counted again whenever there may be too many.
    """

    def __init__(self, listener: int, bound: int) -> None:
        self.listener = listener
        self._bound = bound
        self._tree = ProcessTree(os.getpid())
        self._starts = starting_calls()
        self._at_most = 1

    def answer(self) -> bool:
        """Answer one call; False, leaving it to wait, for a start that would be one too many."""
        wish = bytearray(_WISH_SIZE)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, wish)
        except OSError:  # The asking process has ended; there is no one to answer.
            return True
        number, caller, _, call, _, _, *arguments = _WISH.unpack(wish)
        reply = struct.pack("=QqiI", number, 0, 0, _CONTINUE)
        if call in self._starts:
            if self._at_most >= self._bound:
                self._at_most = self._tree.usage().threads
                if self._at_most >= self._bound:
                    return False
            self._at_most += 1
        elif not _concerns_itself(caller, arguments[naming_argument(call) or 0]):
            reply = struct.pack("=QqiI", number, 0, -errno.EPERM, 0)
        try:
            fcntl.ioctl(self.listener, _SEND, reply)
        except OSError:  # It has ended meanwhile.
            return True
        return True


def _concerns_itself(caller: int, named: int) -> bool:
    # Numbers of processes are ints; the call looks at the low half alone.
    return Path(f"/proc/{caller}/task/{named & 0xFFFFFFFF}").exists()
