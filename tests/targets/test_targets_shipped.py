"""Facts about the declarations that are shipped, and arithmetic on them that was published."""

import math
from pathlib import Path

import pytest

import disaggc
from disaggc.library import shelf
from disaggc.targets import Confidence, Library, describe, figures, load_library

LIBRARY = load_library()

SYSTEMS = [
    "h100-x8",
    "h200-x8",
    "b200-x8",
    "gb200-nvl72",
    "gb300-nvl72",
    "vr-nvl72",
    "groq3-lpx",
    "sn50-rack",
    "sn40l-rack",
    "xeon6-host",
    "gaudi3-x8",
    "mi300x-x8",
    "mi355x-x8",
    "helios",
    "cs3",
    "trn3-ultra",
    "h800-x8",
    "h20-x8",
    "a800-x8",
    "l40s-x8",
    "cpu-pair",
]

DEEPSEEK_V3_EXPERT_BYTES = 58 * 256 * 3 * 7168 * 2048  # MoE layers x experts x matrices, FP8


@pytest.fixture(name="library")
def shipped() -> Library:
    return LIBRARY


def test_every_system_of_the_design_is_declared_and_no_other(library: Library) -> None:
    assert sorted(library.systems) == sorted(SYSTEMS)


def test_the_keynotes_five_tiers_are_declared(library: Library) -> None:
    tiers = ["free", "medium", "high", "premium", "ultra"]
    assert list(library.tiers) == [f"gtc2026/{tier}" for tier in tiers]
    prices = [library.tier(f"gtc2026/{tier}").price_usd_per_mtok.value for tier in tiers]
    assert prices == [0, 3, 6, 45, 150]


def test_every_device_and_link_is_used_by_a_system(library: Library) -> None:
    systems = library.systems.values()
    assert {system.device.name for system in systems} == set(library.devices)
    assert {link.name for s in systems for link in (s.scale_up, s.scale_out)} == set(library.links)


def test_every_inferred_figure_says_how(library: Library) -> None:
    for _, figure in figures(library.systems):
        assert figure.note or figure.confidence is not Confidence.I


@pytest.mark.parametrize("path", sorted(shelf("targets").rglob("*.toml")), ids=lambda path: path.stem)
def test_each_file_says_first_which_code_carries_it_out(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    code = first.removeprefix("# Carried out by ").split(" (")[0]
    assert (Path(disaggc.__file__).parent.parent / code).is_file()


def test_an_lpx_rack_holds_128_gb_of_sram(library: Library) -> None:
    rack = library.system("groq3-lpx")
    assert rack.capacity_bytes == 128e9
    assert rack.bytes_per_s == pytest.approx(38.4e15)
    assert rack.devices == 256


def test_a_vera_rubin_rack_holds_20_7_tb_of_hbm_at_1584_tb_per_s(library: Library) -> None:
    rack = library.system("vr-nvl72")
    assert rack.capacity_bytes == pytest.approx(20.7e12, rel=0.002)
    assert rack.bytes_per_s == pytest.approx(1584e12)


# The declared capacity is the vendor's 500 MB, because 256 of them are the vendor's 128 GB per rack;
# published counts take 500 MiB, which is the upper end of the declared interval. It matters:
# DeepSeek-V3's experts fill 4.87 racks by one reading and 5.11 by the other.
def test_deepseek_v3s_experts_fill_1247_lpus_of_500_mib(library: Library) -> None:
    sram = library.device("lp30").main.capacity
    assert math.isclose(DEEPSEEK_V3_EXPERT_BYTES, 653.9e9, rel_tol=1e-4)
    assert sram.high_si == 524_288_000
    assert int(DEEPSEEK_V3_EXPERT_BYTES / sram.high_si) == 1247
    assert round(DEEPSEEK_V3_EXPERT_BYTES / sram.high_si / 256, 2) == 4.87


def test_deepseek_v3s_experts_need_six_racks_at_the_vendors_500_mb(library: Library) -> None:
    assert math.ceil(DEEPSEEK_V3_EXPERT_BYTES / library.system("groq3-lpx").capacity_bytes) == 6


def test_nvlink_6_keeps_one_way_and_both_ways_apart(library: Library) -> None:
    link = library.system("vr-nvl72").scale_up
    assert link.bandwidth_one_way.si == 1.8e12
    assert link.bandwidth_both_ways is not None
    assert link.bandwidth_both_ways.si == 3.6e12


def test_sparse_rates_are_no_dense_ones(library: Library) -> None:
    assert library.device("rubin").rate("fp4").si == 35e15
    assert library.device("rubin").sparse["fp4"].si == 50e15
    assert library.device("wse-3").rate("fp16").si == 12.5e15
    assert library.device("wse-3").rate("fp16").confidence is Confidence.I


@pytest.mark.parametrize(
    ("device", "flops_per_byte"),
    [("lp30", 8), ("rubin", 795), ("sn50", 1739), ("b200", 562), ("mi455x", 864), ("gaudi3", 500)],
)
def test_fp8_flops_per_byte_of_main_memory_are_as_published(
    library: Library, device: str, flops_per_byte: float
) -> None:
    part = library.device(device)
    assert part.rate("fp8").si / part.main.bandwidth.si == pytest.approx(flops_per_byte, rel=2e-3)


def test_the_fp8_rack_rate_of_sn50_is_the_vendors(library: Library) -> None:
    rack = library.system("sn50-rack")
    assert rack.devices * rack.device.rate("fp8").si == pytest.approx(51.2e15)
    assert rack.devices * rack.device.memory("sram").capacity.si == pytest.approx(6.9e9, rel=0.002)


def test_lpx_power_and_price_are_inferred_with_their_interval(library: Library) -> None:
    rack = library.system("groq3-lpx")
    assert (rack.power.low_si, rack.power.si, rack.power.high_si) == (90e3, 130e3, 170e3)
    assert rack.price_usd is not None
    assert rack.price_usd.confidence is Confidence.I
    assert rack.scale_out.bandwidth_one_way.si == 3.2e12


def test_a_description_gives_each_figure_its_provenance(library: Library) -> None:
    rows = {row.what: row for row in describe(library.system("groq3-lpx"))}
    assert rows["device.memories.sram.capacity"].confidence == "V"
    assert rows["power"].value == "130 (90 to 170)"
    assert rows["power"].note
    assert rows["hops.256-devices.latency"].source == "HC26-nvidia-groq-3-lpx"
    assert rows["title"].source == ""
