"""What a system can do is found by trying, and what it cannot is said."""

from __future__ import annotations

import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.probe import Confinement, what_confines


def test_a_system_with_all_of_it_needs_no_notice() -> None:
    """Landlock and seccomp are enough: what namespaces keep away, seccomp refuses."""
    for namespaces in (True, False):
        assert Confinement(3, namespaces=namespaces, seccomp=True).notice() is None
    assert "Landlock 3" in Confinement(3, namespaces=True, seccomp=True).describe()


@pytest.mark.parametrize(
    ("confinement", "says"),
    [
        (Confinement(0, namespaces=True, seccomp=True), "can read and write every file that you can."),
        (Confinement(5, namespaces=False, seccomp=False), "can reach the network."),
        (
            Confinement(5, namespaces=False, seccomp=False),
            "can end your other processes, or change their limits",
        ),
        (Confinement(5, namespaces=True, seccomp=False), "can reach local services."),
        (Confinement(5, namespaces=True, seccomp=False), "from those of memory and output it can hide."),
        (Confinement(0, namespaces=False, seccomp=True), "Limits of time, memory and output hold."),
        (Confinement(0, namespaces=False, seccomp=False), "every file that you can and reach the network."),
    ],
)
def test_what_is_open_is_said_plainly(confinement: Confinement, says: str) -> None:
    """A user decides then whether to run it."""
    notice = confinement.notice()
    assert notice is not None
    assert notice.slug == "not-confined"
    assert says in notice.message


def test_what_counts_memory_is_described() -> None:
    """For `doctor`."""
    assert "together by looking," in Confinement(3, namespaces=True, seccomp=True).describe()
    assert "by a cgroup and by looking," in Confinement(3, True, True, "/sys/fs/cgroup/a").describe()


def test_code_that_cannot_be_kept_in_asks_for_trust() -> None:
    """With what it could do; and where it can be kept in without a question."""
    Confinement(3, namespaces=False, seccomp=True).require_trust("The code.")
    with pytest.raises(BundleError, match=r"The code\. .* read and write every file") as caught:
        Confinement(0, namespaces=True, seccomp=True).require_trust("The code.")
    assert caught.value.slug == "trust-needed"


def test_the_answer_is_remembered() -> None:
    """Trying takes processes."""
    assert what_confines() is what_confines()
