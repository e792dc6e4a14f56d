"""Answer a confined program's wish to start a process or thread, as long as there are not too many."""

from __future__ import annotations

import fcntl
import os
import struct

from rdagent_sota_patch.confinement.consumption import ProcessTree

# struct seccomp_notif and seccomp_notif_resp, include/uapi/linux/seccomp.h.
_RECEIVE, _WISH_SIZE = 0xC0502100, 80
_SEND, _CONTINUE = 0xC0182101, 1


class StartCounter:
    """The processes and threads below this process, counted anew whenever there may be too many."""

    def __init__(self, listener: int, bound: int) -> None:
        self.listener = listener
        self._bound = bound
        self._tree = ProcessTree(os.getpid())
        self._at_most = 1

    def allow_start(self) -> bool:
        """Let one waiting start go on; False, leaving it to wait, if that would be one too many."""
        if self._at_most >= self._bound:
            self._at_most = self._tree.usage().threads
            if self._at_most >= self._bound:
                return False
        wish = bytearray(_WISH_SIZE)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, wish)
            fcntl.ioctl(self.listener, _SEND, wish[:8] + struct.pack("=qiI", 0, 0, _CONTINUE))
        except OSError:  # Who wished it has ended meanwhile; there is nobody to answer.
            return True
        self._at_most += 1
        return True
