"""Bounded output: beginning and end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.sandbox.supervision import Printed


@given(st.lists(st.binary(max_size=20)), st.integers(2, 40))
def test_never_more_than_the_limit_and_all_of_less(parts: list[bytes], limit: int) -> None:
    """However it comes in parts."""
    printed = Printed(limit)
    for part in parts:
        printed.add(bytes(byte % 26 + 97 for byte in part))
    whole = bytes(byte % 26 + 97 for byte in b"".join(parts)).decode()
    half = limit // 2
    if len(whole) <= 2 * half:
        assert printed.text() == whole
    else:
        left_out = f"\n… {len(whole) - 2 * half:,} bytes left out …\n"
        assert printed.text() == whole[:half] + left_out + whole[-half:]
