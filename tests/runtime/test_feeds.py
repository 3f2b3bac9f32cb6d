import numpy as np
import pytest

from disaggc.errors import PlanError
from disaggc.plans import Feed
from disaggc.runtime.feeds import Feeder, Lengths, feed_array

PREFILL, DECODE = Lengths(batch=2, cached=0, new=3), Lengths(batch=2, cached=3, new=1)
PROMPT, NEXT = np.array([[4, 5, 6], [7, 8, 9]]), np.array([[1], [2]])


@pytest.mark.parametrize(
    ("kind", "shape", "prefill", "decode"),
    [
        ("token_ids", ("batch", "new"), [[4, 5, 6], [7, 8, 9]], [[1], [2]]),
        ("position_ids", ("batch", "new"), [[0, 1, 2], [0, 1, 2]], [[3], [3]]),
        ("position_ids", ("new",), [0, 1, 2], [3]),
        ("attention_mask", ("batch", "total"), [[1] * 3] * 2, [[1] * 4] * 2),
        ("past_lengths", ("batch",), [2, 2], [3, 3]),
        ("past_lengths", ("batch", 1), [[2], [2]], [[3], [3]]),
        ("total_length", (), 3, 4),
        ("total_length", (1,), [3], [4]),
        ("write_indices", ("batch",), [0, 0], [3, 3]),
        ("kv_lengths", ("batch",), [3, 3], [4, 4]),
    ],
)
@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_a_feed_is_what_its_kind_says(
    kind: str, shape: tuple[int | str, ...], prefill: object, decode: object, dtype: str
) -> None:
    feed = Feed("x", kind, dtype, shape)
    for lengths, tokens, expected in ((PREFILL, PROMPT, prefill), (DECODE, NEXT, decode)):
        found = feed_array(feed, lengths, tokens)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.array(expected))


def test_a_feed_of_constant_shape_keeps_its_tensor() -> None:
    feeder = Feeder([Feed("ids", "token_ids", "int64", ("batch", "new"))])
    first = feeder.step(DECODE, NEXT)["ids"]
    second = feeder.step(Lengths(2, 4, 1), NEXT + 1)["ids"]
    assert second is first
    np.testing.assert_array_equal(second.numpy(), NEXT + 1)


def test_a_kind_that_does_not_exist_gets_the_nearest_name() -> None:
    with pytest.raises(PlanError, match=r"Input 'x' is of kind 'token_id'. Did you mean 'token_ids'\?"):
        feed_array(Feed("x", "token_id", "int64", ("batch", "new")), PREFILL, PROMPT)


def test_a_shape_that_does_not_suit_the_kind_is_refused() -> None:
    with pytest.raises(PlanError, match=r"'x' has shape \['batch', 7\], which does not suit 'token_ids'"):
        feed_array(Feed("x", "token_ids", "int64", ("batch", 7)), PREFILL, PROMPT)


def test_an_extent_that_does_not_exist_gets_the_nearest_name() -> None:
    with pytest.raises(PlanError, match=r"Input 'x' has extent 'batsh'. Did you mean 'batch'\?"):
        feed_array(Feed("x", "token_ids", "int64", ("batsh", "new")), PREFILL, PROMPT)


@pytest.mark.parametrize("each", [None, [3, 5]], ids=["alike", "ragged"])
@pytest.mark.parametrize("with_ids", [True, False])
def test_advancing_gives_what_every_step_gives(each: list[int] | None, with_ids: bool) -> None:
    """A pool that reads no token ids has lengths and positions all the same."""
    feeds = [
        Feed("positions", "position_ids", "int64", ("batch", "new")),
        Feed("past", "past_lengths", "int32", ("batch",)),
        Feed("write", "write_indices", "int64", ("batch",)),
        Feed("lengths", "kv_lengths", "int64", ("batch",)),
        Feed("total", "total_length", "int32", ()),
    ]
    if with_ids:
        feeds.insert(2, Feed("ids", "token_ids", "int64", ("batch", "new")))
    advancing, stepping = Feeder(feeds), Feeder(feeds)
    cached = np.array([3, 3] if each is None else each)
    for step in range(6):
        tokens = np.array([[step], [10 * step]])
        lengths = Lengths(2, int(cached.max()) + step, 1, None if each is None else cached + step)
        expected = stepping.step(lengths, tokens)
        if step in (0, 3):  # a step that looks everything up may come between
            found = advancing.step(lengths, tokens)
        else:
            advancing.advance(tokens)
        for name, value in expected.items():
            np.testing.assert_array_equal(
                found[name].numpy(), value.numpy(), err_msg=f"{name} in step {step}"
            )
