"""Text that comes in pieces is the text that comes at once, whatever the pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from disaggc.serving.detokenizer import Detokenizer, StopStrings

BYTES = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
BYTES.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
BYTES.decoder = decoders.ByteLevel()

WORDS = Tokenizer(
    models.BPE(
        {
            **{f"<0x{i:02X}>": i for i in range(256)},
            **{word: 256 + i for i, word in enumerate(("\u2581a", "b", "\u2581", "c"))},
        },
        [],
        byte_fallback=True,
    )
)
WORDS.decoder = decoders.Sequence(
    [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def pieces(tokenizer: Tokenizer, ids: Sequence[int], prompt: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(lambda some: str(tokenizer.decode(list(some))), prompt)
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


@given(st.text(max_size=8), st.text(max_size=40))
def test_characters_spread_over_tokens_come_whole(prompt: str, text: str) -> None:
    ids, before = BYTES.encode(text).ids, BYTES.encode(prompt).ids
    found = pieces(BYTES, ids, before)
    assert "".join(found) == text
    assert "\N{REPLACEMENT CHARACTER}" in text or not any("\N{REPLACEMENT CHARACTER}" in p for p in found)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_bytes_that_are_no_text_come_as_the_tokenizer_shows_them(ids: list[int]) -> None:
    assert "".join(pieces(BYTES, ids)) == BYTES.decode(ids)


@given(st.text(alphabet="ab c\u00e9\u4f60\U0001f600", max_size=8))
def test_bytes_between_words_come_whole(text: str) -> None:
    ids = [byte for character in text for byte in character.encode()]
    assert "".join(pieces(WORDS, [256, *ids], [256])) == " a" + text


def test_an_answer_keeps_the_space_that_it_begins_with() -> None:
    assert "".join(pieces(WORDS, [256, 257], [256])) == " ab"
    assert "".join(pieces(WORDS, [256, 257])) == "ab"


def test_text_is_told_as_soon_as_it_is_certain() -> None:
    assert pieces(BYTES, BYTES.encode("a\u00e9b").ids) == ["a", "", "\u00e9", "b", ""]


def test_a_long_run_of_what_is_no_text_is_not_held_back_for_ever() -> None:
    ids = BYTES.encode("\U0001f600").ids[:1] * 100
    told = pieces(BYTES, ids)
    assert sum(map(len, told[:-1])) > 80
    assert "".join(told) == BYTES.decode(ids)


# stops --------------------------------------------------------------------------------------------


def first_stop(text: str, stops: Sequence[str]) -> str:
    """What comes before the stop that ends first, by looking at every beginning of the text."""
    for end in range(len(text) + 1):
        found = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: min(found)]
    return text


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 30), max_size=10),
)
def test_a_stop_is_found_wherever_pieces_are_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    watcher, told, is_stopped = StopStrings(stops), "", False
    for a, b in itertools.pairwise(bounds):
        said, is_stopped = watcher.push(text[a:b])
        told += said
        assert first_stop(text, stops).startswith(told), "nothing is said that a stop takes back"
        if is_stopped:
            break
    assert told + ("" if is_stopped else watcher.finish()) == first_stop(text, stops)
    assert is_stopped == any(stop in text for stop in stops)


@pytest.mark.parametrize(("pushed", "told"), [("ab", "a"), ("ba", "ba"), ("bc", "")])
def test_only_what_a_stop_may_begin_with_is_held_back(pushed: str, told: str) -> None:
    assert StopStrings(["bcd"]).push(pushed) == (told, False)
