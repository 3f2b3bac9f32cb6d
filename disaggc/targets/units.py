"""The units that a figure may be written in, each with its factor to a base unit."""

from __future__ import annotations

from dataclasses import dataclass

from disaggc.errors import DeclarationError


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as written in TOML.

    Attributes:
        factor: How many base units one of it is.
        base: The base unit, which also names the dimension ('B', 'FLOP/s', 's').
    """

    factor: float
    base: str


def _scaled(base: str, **factors: float) -> dict[str, Unit]:
    return {name.replace("_per_", "/"): Unit(factor, base) for name, factor in factors.items()}


UNITS: dict[str, Unit] = {
    **_scaled("B", B=1, kB=1e3, MB=1e6, GB=1e9, TB=1e12, PB=1e15),
    **_scaled("B", KiB=2.0**10, MiB=2.0**20, GiB=2.0**30, TiB=2.0**40),
    **_scaled("B/s", B_per_s=1, MB_per_s=1e6, GB_per_s=1e9, TB_per_s=1e12, PB_per_s=1e15),
    **_scaled("B/s", Gb_per_s=1e9 / 8, Tb_per_s=1e12 / 8),
    **_scaled("FLOP/s", GFLOPS=1e9, TFLOPS=1e12, PFLOPS=1e15, TOPS=1e12),
    **_scaled("s", s=1, ms=1e-3, us=1e-6, ns=1e-9),
    **_scaled("W", W=1, kW=1e3, MW=1e6),
    **_scaled("USD", USD=1),
    **_scaled("USD/h", USD_per_h=1),
    **_scaled("USD/Mtok", USD_per_Mtok=1),
    **_scaled("tokens", tokens=1),
    **_scaled("tokens/s", tokens_per_s=1),
    "tokens/s/MW": Unit(1.0, "tokens/s/MW"),
    **_scaled("devices", devices=1),
    **_scaled("ratio", ratio=1),
}


def unit_named(name: str) -> Unit:
    """The unit that ``name`` spells; upper and lower case differ ('GB' is bytes, 'Gb' bits).

    Raises:
        DeclarationError: There is no such unit; the message names those there are.
    """
    if name not in UNITS:
        raise DeclarationError(f"Unknown unit '{name}'. Known units: {', '.join(UNITS)}.")
    return UNITS[name]
