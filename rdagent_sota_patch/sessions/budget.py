"""How much may come out of one file: shared parts of a pickle cost nothing to read, and multiply when written out."""

from __future__ import annotations

from collections.abc import Mapping

from rdagent_sota_patch.errors import SnapshotError


class Budget:
    """Values and characters that are left to one session, or to one answer made of it.

    Attributes:
        characters: Taken from directly for a single text; whether it is overdrawn, the next value that is counted says.
    """

    def __init__(self, values: int, characters: int) -> None:
        self._values = self._most_values = values
        self.characters = self._most_characters = characters

    def spend(self, value: object) -> None:
        """Count plain data as it would be written out: a part that is met twice counts twice.

        Raises:
            SnapshotError: ``snapshot-too-large``, as soon as it is more than is left.
        """
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, (str, bytes)):
                self.characters -= len(one)
            elif isinstance(one, Mapping):
                waiting.extend(one.keys())
                waiting.extend(one.values())
            elif isinstance(one, (list, tuple)):
                self.spend_values(len(one))
                waiting.extend(one)
            self.spend_values(1)

    def spend_values(self, count: int) -> None:
        """Count values of which nothing but their number matters."""
        self._values -= count
        if self._values < 0 or self.characters < 0:
            raise SnapshotError(
                "snapshot-too-large",
                f"written out, it has more than {self._most_values:,} values or {self._most_characters:,} characters.",
                "RD-Agent's sessions have some thousand values a loop; look at this one with its own tools.",
            )


def budget_of_session(own: bool) -> Budget:
    """For one session: 4 million values and 64 million characters, and four times that if it is this machine's."""
    factor = 4 if own else 1
    return Budget(4_000_000 * factor, 64_000_000 * factor)


def most_factors(own: bool) -> int:
    """How many factors of one log are described in one answer: ten thousand, and four times that of this machine's."""
    return 40_000 if own else 10_000


def budget_of_answer() -> Budget:
    """For one answer, such as the output of ``inspect``: what one session of this machine may have."""
    return budget_of_session(own=True)
