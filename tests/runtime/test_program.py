"""What one pool does in a step, worked out from how values flow."""

from disaggc.runtime.program import Program, lent_index, program_of

from .test_wiring import cache, ports, wired

TOKENS = ["input_ids"]


def programs(pools: str, *stages: object, **options: object) -> dict[str, Program]:
    wiring = wired(pools, *stages, **options)  # type: ignore[arg-type]
    return {pool: program_of(wiring, "decode", pool, TOKENS) for pool in wiring.pools}


def test_the_pool_of_the_logits_leads_and_starts_those_that_read_tokens() -> None:
    found = programs("a b", ports("input_ids", "x"), ports("x", "logits"))
    assert found["b"].is_lead
    assert found["b"].started == ("a",)
    assert found["a"].is_started
    assert not found["a"].is_lead


def test_a_pool_that_is_held_back_by_values_needs_no_word() -> None:
    found = programs("a b a", ports("input_ids", "x"), ports("x", "y"), ports("y", "logits"))
    assert found["a"].started == ()
    assert not found["b"].is_started
    assert [turn.needs for turn in found["a"].turns] == [frozenset(), frozenset({1})]
    assert found["b"].arrivals == {0: ("x",)}


def test_a_pool_that_nothing_holds_back_waits_for_the_leads_word() -> None:
    found = programs("b a", ports("", "rope"), ports("input_ids rope", "logits"))
    assert found["b"].is_started
    assert found["a"].started == ("b",)


def test_a_pool_that_the_logits_do_not_depend_on_reports() -> None:
    found = programs(
        "a b", ports("input_ids", "x logits"), ports("x past", "present"), states=(cache(in_place=False),)
    )
    assert found["b"].reports
    assert found["a"].awaited == {1}
    assert not found["a"].reports


def test_a_pool_that_the_logits_depend_on_does_not_report() -> None:
    found = programs("a b a", ports("input_ids", "x"), ports("x", "y"), ports("y", "logits"))
    assert found["a"].awaited == frozenset()
    assert not found["b"].reports


def test_a_stage_after_the_last_message_is_waited_for() -> None:
    found = programs(
        "a b a b",
        ports("input_ids", "x"),
        ports("x", "y"),
        ports("y", "logits"),
        ports("x past", "present"),
        states=(cache(in_place=False),),
    )
    assert found["b"].reports
    assert found["a"].awaited == {3}


def test_a_lender_sends_at_the_leads_word_and_the_reader_waits() -> None:
    found = programs(
        "b a", ports("past", "x"), ports("input_ids x past", "logits present"), states=(cache(),)
    )
    assert found["a"].lends[0][0] == lent_index(0)
    assert found["b"].turns[0].needs == {lent_index(0)}
    assert found["b"].arrivals == {lent_index(0): ("past",)}
    assert found["a"].is_lead
    assert found["a"].started == ()
