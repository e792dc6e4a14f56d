"""Which walls this system can put around a program."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from rdagent_sota_patch.confinement import kernel
from rdagent_sota_patch.confinement.interpreter import package_root
from rdagent_sota_patch.confinement.landlock import landlock_version
from rdagent_sota_patch.confinement.launcher import Walls
from rdagent_sota_patch.confinement.seccomp import knows_this_machine
from rdagent_sota_patch.errors import Problem

_TRY = """
import json, sys
sys.path.append({root!r})
from rdagent_sota_patch.confinement import kernel
from rdagent_sota_patch.confinement.{module} import {function}
try:
    {before}
    {function}({arguments})
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
    """

    landlock: int
    namespaces: bool
    seccomp: bool

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
        return Walls(self.landlock, self.namespaces, self.seccomp)

    def describe(self) -> str:
        """One line for people."""
        files = f"files by Landlock {self.landlock}" if self.files else "files not"
        means = [name for name, on in (("seccomp", self.seccomp), ("namespaces", self.namespaces)) if on]
        network = f"network by {' and '.join(means)}" if means else "network not"
        return f"{files}, {network}, time and memory by limits"

    def notice(self) -> Problem | None:
        """What to tell whoever is about to run a stranger's code here; None when it is kept in whole."""
        open_ways = [
            what
            for what, closed in (
                ("read and write every file that you can", self.files),
                ("reach the network", self.network),
            )
            if not closed
        ]
        if not open_ways:
            return None
        return Problem(
            "not-confined",
            f"This system cannot keep code in: factor and model code that is run here can {' and '.join(open_ways)}. "
            "Limits of time, memory and output hold.",
            "Use Linux 5.13 or later with Landlock, or run only code that you have read.",
        )


@cache
def what_confines() -> Confinement:
    """Try each of the kernel's means once in a process that ends with it (some 50 ms), and remember."""
    if not kernel.LINUX:
        return Confinement(0, namespaces=False, seccomp=False)
    return Confinement(
        landlock_version(),
        namespaces=_works("namespaces", "enter_namespaces"),
        seccomp=knows_this_machine()
        and _works(
            "seccomp",
            "refuse_calls",
            before="kernel.allow_no_new_privileges()",
            arguments="truncation=True, signals=True, others=True, asked=False",
        ),
    )


def _works(module: str, function: str, *, before: str = "pass", arguments: str = "") -> bool:
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
    return tried.returncode == 0
