import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disaggc.cost import hit_share
from disaggc.ir import Routing


def _exact(experts: int, chosen: int, tokens: int) -> Fraction:
    """Distinct experts hit, over every way in which the tokens can choose, as a share of all."""
    picks = list(itertools.combinations(range(experts), chosen))
    total = sum(len(set().union(*step)) for step in itertools.product(picks, repeat=tokens))
    return Fraction(total, len(picks) ** tokens * experts)


@pytest.mark.parametrize(
    ("experts", "chosen", "tokens"),
    [(2, 1, 5), (4, 1, 4), (4, 2, 3), (5, 2, 3), (5, 4, 3), (6, 3, 2), (6, 1, 4), (3, 3, 2)],
)
def test_share_of_experts_hit_is_the_mean_over_all_choices(experts: int, chosen: int, tokens: int) -> None:
    share = hit_share(Routing(experts, chosen), np.asarray(float(tokens)))
    assert float(share) == pytest.approx(float(_exact(experts, chosen, tokens)), rel=1e-12)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 10_000), st.integers(0, 100))
def test_share_grows_with_tokens_from_one_tokens_choice_to_all(
    a: int, b: int, tokens: int, more: int
) -> None:
    chosen, experts = min(a, b), max(a, b)
    few, many = hit_share(Routing(experts, chosen), np.asarray([tokens, tokens + more], dtype=float))
    assert chosen / experts - 1e-12 <= few <= many <= 1.0


def test_one_token_hits_what_it_chooses_and_none_hits_none() -> None:
    none, one = hit_share(Routing(128, 8), np.asarray([0.0, 1.0]))
    assert none == 0
    assert one == pytest.approx(8 / 128)


def test_without_routing_everything_is_read() -> None:
    assert hit_share(None, np.asarray([1.0, 64.0])).tolist() == [1.0, 1.0]
