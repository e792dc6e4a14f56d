"""Factor codes in the styles of public repositories: half see the future, half do not."""

from __future__ import annotations

from tests.lookahead import factor_zoo
from tests.lookahead.zoo import fresh, honest, peeking

LOOK_AHEAD = {**factor_zoo.LOOK_AHEAD, **peeking.LOOK_AHEAD, **fresh.LOOK_AHEAD}
HONEST = {**factor_zoo.HONEST, **honest.HONEST, **fresh.HONEST}
HARD = {**peeking.RARE, **peeking.SUBTLE, **honest.LOOKS_LIKE_IT}
