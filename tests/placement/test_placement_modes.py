import pytest
from made import decoder

from disaggc.ir import Phase, Role
from disaggc.placement import Piece
from disaggc.placement.modes import mode_name, modes_of

SYSTEMS = ("hbm", "sram")
PIECES = decoder()


def _piece(role: Role) -> Piece:
    return next(p for p in PIECES.pieces if p.role is role)


def test_two_systems_have_six_modes() -> None:
    assert [mode.name for mode in modes_of(SYSTEMS)] == [
        "colocated on hbm",
        "colocated on sram",
        "P/D: prefill on hbm, decode on sram",
        "P/D: prefill on sram, decode on hbm",
        "AFD: attention on hbm, FFN on sram",
        "AFD: attention on sram, FFN on hbm",
    ]


def test_an_afd_mode_fixes_decode_of_attention_and_ffn_and_nothing_else() -> None:
    afd = modes_of(SYSTEMS)[4]
    assert afd.wants(_piece(Role.CORE_ATTENTION), Phase.DECODE) == "hbm"
    assert afd.wants(_piece(Role.FFN), Phase.DECODE) == "sram"
    assert afd.wants(_piece(Role.QKV), Phase.DECODE) == ""
    assert afd.wants(_piece(Role.CORE_ATTENTION), Phase.PREFILL) == ""


# QKV, core attention, FFN and head: first of prefill, then of decode.
NAMED: dict[tuple[int, ...], str] = {
    (0, 0, 0, 0, 0, 0, 0, 0): "colocated on hbm",
    (1, 1, 1, 1, 0, 0, 0, 0): "P/D: prefill on sram, decode on hbm",
    (1, 1, 1, 1, 0, 0, 1, 0): "AFD: attention on hbm, FFN on sram",
    (0, 0, 1, 0, 0, 0, 1, 0): "AFD: attention on hbm, FFN on sram",
    (0, 0, 0, 0, 1, 0, 0, 0): "mixed: prefill on hbm, decode on hbm and sram",
    (0, 1, 0, 0, 1, 1, 1, 1): "mixed: prefill on hbm and sram, decode on sram",
}


@pytest.mark.parametrize("assignment", NAMED)
def test_an_assignment_is_named_by_where_attention_and_ffn_are(assignment: tuple[int, ...]) -> None:
    assert mode_name(PIECES, SYSTEMS, assignment) == NAMED[assignment]
