"""What a system can do is found by trying, and what it cannot is said."""

from __future__ import annotations

import pytest

from rdagent_sota_patch.confinement.probe import Confinement, what_confines


def test_a_system_with_all_of_it_needs_no_notice() -> None:
    """Landlock and one of the means against the network are enough."""
    for namespaces, seccomp in ((True, True), (True, False), (False, True)):
        assert Confinement(3, namespaces=namespaces, seccomp=seccomp).notice() is None
    assert "Landlock 3" in Confinement(3, namespaces=True, seccomp=True).describe()


@pytest.mark.parametrize(
    ("confinement", "says"),
    [
        (Confinement(0, namespaces=True, seccomp=True), "can read and write every file that you can."),
        (Confinement(5, namespaces=False, seccomp=False), "can reach the network."),
        (Confinement(0, namespaces=False, seccomp=False), "every file that you can and reach the network."),
    ],
)
def test_what_is_open_is_said_plainly(confinement: Confinement, says: str) -> None:
    """A user decides then whether to run it."""
    notice = confinement.notice()
    assert notice is not None
    assert notice.slug == "not-confined"
    assert says in notice.message
    assert "not" in confinement.describe()


def test_the_answer_is_remembered() -> None:
    """Trying takes processes."""
    assert what_confines() is what_confines()
