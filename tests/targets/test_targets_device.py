"""Facts about devices and systems: which rate, which memory, which hop."""

import dataclasses

import pytest

from disaggc.errors import DeclarationError
from disaggc.targets import Confidence, load_library

LIBRARY = load_library()


def test_a_published_format_has_its_own_rate() -> None:
    assert LIBRARY.device("b200").rate("fp4").si == 9e15


@pytest.mark.parametrize(
    ("device", "number_format", "as_format"),
    [
        ("h100", "fp4", "fp8"),
        ("h100", "int4", "fp8"),
        ("h100", "int8", "bf16"),
        ("h100", "fp16", "bf16"),
        ("a800", "fp4", "bf16"),
        ("a800", "fp8", "bf16"),
        ("xeon-6980p", "int4", "int8"),
        ("cpu-core", "bf16", "fp32"),
    ],
)
def test_a_format_without_a_rate_is_computed_at_the_next_wider(
    device: str, number_format: str, as_format: str
) -> None:
    part = LIBRARY.device(device)
    assert part.rate(number_format) == part.compute[as_format]


def test_bf16_on_a_device_of_fp8_alone_is_half_and_inferred() -> None:
    rate = LIBRARY.device("lp30").rate("bf16")
    assert rate.si == 0.6e15
    assert rate.confidence is Confidence.I
    assert "fp8" in rate.note


def test_an_unknown_format_gives_the_nearest() -> None:
    with pytest.raises(DeclarationError, match=r"No number format named 'nvfp4'\. Did you mean 'fp4'"):
        LIBRARY.device("rubin").rate("nvfp4")


def test_weights_live_in_sram_only_on_sram_parts() -> None:
    mains = {name: LIBRARY.device(name).main.name for name in ("lp30", "wse-3", "sn50", "gaudi3", "l40s")}
    assert mains == {"lp30": "sram", "wse-3": "sram", "sn50": "hbm", "gaudi3": "hbm", "l40s": "gddr"}


def test_an_unknown_memory_gives_those_there_are() -> None:
    with pytest.raises(DeclarationError, match=r"Device 'lp30' has no memory 'hbm'\. Known names: sram\."):
        LIBRARY.device("lp30").memory("hbm")


@pytest.mark.parametrize(("devices", "us"), [(1, 0.35), (16, 0.35), (128, 0.75), (192, 0.95), (256, 1.15)])
def test_lpx_hop_latency_follows_the_hot_chips_table(devices: int, us: float) -> None:
    assert LIBRARY.system("groq3-lpx").hop_latency(devices).si == pytest.approx(us * 1e-6)


def test_a_hop_between_two_rows_is_inferred() -> None:
    rack = LIBRARY.system("groq3-lpx")
    assert rack.hop_latency(256).confidence is Confidence.V2
    assert rack.hop_latency(192).confidence is Confidence.I


def test_hop_latency_never_falls_with_reach() -> None:
    rack = LIBRARY.system("groq3-lpx")
    seconds = [rack.hop_latency(devices).si for devices in range(1, 4096, 37)]
    assert seconds == sorted(seconds)


def test_without_a_table_the_hop_is_the_scale_up_links() -> None:
    rack = LIBRARY.system("vr-nvl72")
    assert rack.hop_latency(72) == rack.scale_up.latency


def test_targets_can_be_keys() -> None:
    assert len({*LIBRARY.systems.values(), *LIBRARY.devices.values(), *LIBRARY.tiers.values()}) == 47


def test_a_device_lists_its_memories_fastest_first() -> None:
    sn50 = LIBRARY.device("sn50")
    with pytest.raises(DeclarationError, match="'memories' must be listed fastest first"):
        dataclasses.replace(sn50, memories=sn50.memories[::-1])


def test_a_capacity_is_in_bytes() -> None:
    memory = LIBRARY.device("rubin").main
    with pytest.raises(DeclarationError, match=r"'capacity' is in 'TB/s'; expected a unit of B\."):
        dataclasses.replace(memory, capacity=memory.bandwidth)


def test_both_ways_cannot_be_less_than_one_way() -> None:
    link = LIBRARY.link("nvlink6")
    with pytest.raises(DeclarationError, match="less than 'bandwidth_one_way'"):
        dataclasses.replace(link, bandwidth_both_ways=LIBRARY.link("nvlink4").bandwidth_one_way)


def test_an_efficiency_needs_every_kind_of_op() -> None:
    gpu = LIBRARY.efficiencies["gpu"]
    with pytest.raises(DeclarationError, match="'ec' lacks norm, embedding, elementwise"):
        dataclasses.replace(gpu, ec={kind: gpu.ec[kind] for kind in ("gemm", "attention", "moe")})


def test_an_efficiency_is_a_share() -> None:
    gpu = LIBRARY.efficiencies["gpu"]
    with pytest.raises(DeclarationError, match=r"'em\.gemm' must be above 0 and at most 1, got 1\.2"):
        dataclasses.replace(
            gpu, em=dict(gpu.em) | {"gemm": dataclasses.replace(gpu.em["gemm"], value=1.2, high=1.2)}
        )


def test_a_quantum_divides_the_devices() -> None:
    with pytest.raises(DeclarationError, match="'quantum' 100 does not divide the 256 devices"):
        dataclasses.replace(LIBRARY.system("groq3-lpx"), quantum=100)
