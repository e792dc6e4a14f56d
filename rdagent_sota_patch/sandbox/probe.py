"""Which walls this system can put around a program."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.sandbox import kernel
from rdagent_sota_patch.sandbox.interpreter import package_root
from rdagent_sota_patch.sandbox.landlock import landlock_version
from rdagent_sota_patch.sandbox.launcher import Walls
from rdagent_sota_patch.sandbox.seccomp import knows_this_machine

_TRY = """
import json, sys
sys.path.append({root!r})
from rdagent_sota_patch.sandbox import kernel
from rdagent_sota_patch.sandbox.{module} import {function}
try:
    {before}
    print({function}({arguments}) or "")
except OSError as error:
    sys.exit(str(error))
"""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What keeps a program in on this system.

    Attributes:
        landlock: Version of the kernel's Landlock, 0 for none: it rules which files can be read and written.
        namespaces: Whether the program gets a network and process numbers of its own.
        seccomp: Whether system calls can be refused, those for sockets among them.
        cgroup: Where groups of processes can be made that the kernel counts together (version 2); empty for nowhere.
    """

    landlock: int
    namespaces: bool
    seccomp: bool
    cgroup: str = ""

    @property
    def files(self) -> bool:
        """Whether files outside its folder are out of reach."""
        return self.landlock > 0

    @property
    def network(self) -> bool:
        """Whether the network is out of reach."""
        return self.namespaces or self.seccomp

    @property
    def walls(self) -> Walls:
        """The same for the launcher."""
        return Walls(self.landlock, self.namespaces, self.seccomp, self.cgroup)

    def describe(self) -> str:
        """One line for people."""
        files = f"files by Landlock {self.landlock}" if self.files else "files not"
        means = [name for name, on in (("seccomp", self.seccomp), ("namespaces", self.namespaces)) if on]
        network = f"network by {' and '.join(means)}" if means else "network not"
        sums = "a cgroup and by looking" if self.cgroup else "looking"
        return f"{files}, {network}, memory of all together by {sums}, time and files by limits"

    def notice(self) -> Problem | None:
        """What to tell a user who is about to run a stranger's code here; None when it is kept in whole."""
        open_ways = [
            what
            for what, closed in (
                ("read and write every file that you can", self.files),
                ("reach the network", self.network),
                (
                    "reach local services",
                    self.seccomp or not self.namespaces,
                ),  # Else they are of the network.
            )
            if not closed
        ]
        if not open_ways:
            return None
        more = []
        if not (self.namespaces or self.seccomp):
            more.append("It can end your other processes, or change their limits and priorities.")
        if self.seccomp:
            more.append("Limits of time, memory and output hold.")
        else:
            more.append("The limit of time holds; from those of memory and output it can hide.")
        return Problem(
            "not-confined",
            f"This system cannot keep code in: factor and model code that is run here can {' and '.join(open_ways)}. "
            f"{' '.join(more)}",
            "Use Linux 5.13 or later with Landlock, or run only code that you have read.",
        )

    def require_trust(self, whose: str) -> None:
        """Refuse to run a stranger's code that is not kept in whole; not to be asked where the user vouches for it.

        Args:
            whose: The code, as a sentence to begin the message with.

        Raises:
            BundleError: ``trust-needed``.
        """
        notice = self.notice()
        if notice is not None:
            raise BundleError(
                "trust-needed",
                f"{whose} {notice.message}",
                "Read the code; give --trust to run it, or --key-file with a bundle that you have signed yourself.",
            )


@cache
def what_confines() -> Confinement:
    """Try each of the kernel's means once in a process that ends with it (some 50 ms), and remember."""
    if not kernel.LINUX:
        return Confinement(0, namespaces=False, seccomp=False)
    return Confinement(
        landlock_version(),
        namespaces=_try("namespaces", "enter_namespaces") is not None,
        seccomp=knows_this_machine()
        and _try(
            "seccomp",
            "refuse_calls",
            before="kernel.allow_no_new_privileges()",
            arguments="truncation=True, signals=True, others=True, asked=False",
        )
        is not None,
        cgroup=_try("cgroup", "try_parent") or "",
    )


def _try(module: str, function: str, *, before: str = "pass", arguments: str = "") -> str | None:
    """What a function of a module here answers in a process that ends with it; None where the system refuses."""
    source = _TRY.format(
        root=package_root(), module=module, function=function, before=before, arguments=arguments
    )
    tried = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source],
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return tried.stdout.decode().strip() if tried.returncode == 0 else None
