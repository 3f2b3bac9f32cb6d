"""The load-bearing figures of every machine against what their sources say, as collected in November 2026.

A row: system, figure, value with unit, source, confidence. Whoever changes a declaration changes the row
with it, and looks at the source.
"""

from __future__ import annotations

import functools

import pytest

from disaggc.targets import Confidence, Figure, figures, load_library

FACTS = """
h100-x8      device.memories.hbm.capacity        80      GB     SA-SPECS                  P
h100-x8      device.memories.hbm.bandwidth       3.35    TB/s   SA-SPECS                  P
h100-x8      device.compute.fp8                  1979    TFLOPS SA-SPECS                  P
h100-x8      device.compute.bf16                 989     TFLOPS SA-SPECS                  P
h100-x8      scale_up.bandwidth_both_ways        900     GB/s   SA-SPECS                  P
h100-x8      scale_up.bandwidth_one_way          450     GB/s   SA-SPECS                  P
h100-x8      device.power                        700     W      SA-SPECS                  P
h100-x8      usd_per_h                           13.52   USD/h  SA-TCO                    P
h200-x8      device.memories.hbm.capacity        141     GB     SA-SPECS                  P
h200-x8      device.memories.hbm.bandwidth       4.8     TB/s   SA-SPECS                  P
h200-x8      device.compute.fp8                  1979    TFLOPS SA-SPECS                  P
h200-x8      usd_per_h                           13.92   USD/h  SA-TCO                    P
b200-x8      device.memories.hbm.capacity        180     GB     SA-SPECS                  P
b200-x8      device.memories.hbm.bandwidth       8       TB/s   SA-SPECS                  P
b200-x8      device.compute.fp4                  9       PFLOPS SA-SPECS                  P
b200-x8      device.compute.fp8                  4.5     PFLOPS SA-SPECS                  P
b200-x8      device.compute.bf16                 2.25    PFLOPS SA-SPECS                  P
b200-x8      scale_up.bandwidth_one_way          0.9     TB/s   SA-SPECS                  P
b200-x8      power                               14.3    kW     SA-SPECS                  P
b200-x8      usd_per_h                           18.72   USD/h  SA-TCO                    P
gb200-nvl72  count                               72      devices SA-SPECS                 P
gb200-nvl72  device.memories.hbm.capacity        186     GB     SA-SPECS                  P
gb200-nvl72  device.memories.hbm.bandwidth       8       TB/s   SA-SPECS                  P
gb200-nvl72  device.compute.fp4                  10      PFLOPS SA-SPECS                  P
gb200-nvl72  device.compute.fp8                  5       PFLOPS SA-SPECS                  P
gb200-nvl72  device.compute.bf16                 2.5     PFLOPS SA-SPECS                  P
gb200-nvl72  scale_up.bandwidth_both_ways        1.8     TB/s   SA-SPECS                  P
gb200-nvl72  power                               120     kW     GB-RACK                   P
gb200-nvl72  usd_per_h                           198     USD/h  SA-TCO                    P
gb300-nvl72  device.memories.hbm.capacity        278     GB     SA-SPECS                  P
gb300-nvl72  device.compute.fp4                  15      PFLOPS SA-SPECS                  P
gb300-nvl72  device.sparse.fp4                   20      PFLOPS SA-SPECS                  P
gb300-nvl72  device.compute.fp8                  5       PFLOPS SA-SPECS                  P
gb300-nvl72  device.power                        1400    W      SA-SPECS                  P
gb300-nvl72  usd_per_h                           237.6   USD/h  SA-TCO                    P
vr-nvl72     count                               72      devices NV-VR-PAGE               V
vr-nvl72     device.memories.hbm.capacity        288     GB     NV-VR-PAGE                V
vr-nvl72     device.memories.hbm.bandwidth       22      TB/s   NV-VR-PAGE                V
vr-nvl72     device.compute.fp4                  35      PFLOPS NV-VR-DS                  V
vr-nvl72     device.sparse.fp4                   50      PFLOPS NV-VR-DS                  V
vr-nvl72     device.compute.fp8                  17.5    PFLOPS NV-VR-DS                  V
vr-nvl72     device.compute.bf16                 4       PFLOPS NV-VR-DS                  V
vr-nvl72     scale_up.bandwidth_one_way          1.8     TB/s   NV-VR-PAGE                V
vr-nvl72     scale_up.bandwidth_both_ways        3.6     TB/s   NV-VR-PAGE                V
vr-nvl72     scale_out.bandwidth_one_way         14.4    TB/s   NV-DGX-VR                 V
vr-nvl72     device.power                        2300    W      SA-RUBIN                  P
vr-nvl72     power                               210     kW     VR-POWER                  P
vr-nvl72     price_usd                           4000000 USD    VR-PRICE                  P
vr-nvl72     usd_per_h                           257.04  USD/h  SA-VR-JUL                 P
groq3-lpx    count                               256     devices NV-LPX-PAGE              V
groq3-lpx    device.memories.sram.capacity       500     MB     NV-LPX-PAGE               V
groq3-lpx    device.memories.sram.bandwidth      150     TB/s   NV-LPX-PAGE               V
groq3-lpx    device.compute.fp8                  1.2     PFLOPS SA-GTC                    P
groq3-lpx    scale_up.bandwidth_both_ways        2.5     TB/s   NV-LPX-BLOG               V2
groq3-lpx    scale_up.bandwidth_one_way          1.25    TB/s   NV-LPX-BLOG               V2
groq3-lpx    scale_up.latency                    350     ns     HC26-nvidia-groq-3-lpx    V2
groq3-lpx    hops.256-devices.latency            1.15    us     HC26-nvidia-groq-3-lpx    V2
groq3-lpx    hops.2304-devices.latency           2.95    us     HC26-nvidia-groq-3-lpx    V2
groq3-lpx    host_memory                         12      TB     NV-LPX-PAGE               V
sn50-rack    count                               16      devices HC26-sambanova-sn50      V2
sn50-rack    device.compute.fp8                  3.2     PFLOPS HC26-sambanova-sn50       V2
sn50-rack    device.compute.bf16                 1.6     PFLOPS HC26-sambanova-sn50       V2
sn50-rack    device.memories.sram.capacity       432     MB     HC26-sambanova-sn50       V2
sn50-rack    device.memories.hbm.capacity        64      GB     HC26-sambanova-sn50       V2
sn50-rack    device.memories.hbm.bandwidth       1.84    TB/s   HC26-sambanova-sn50       V2
sn50-rack    device.memories.ddr.capacity        512     GB     SN50-PAGE                 V2
sn50-rack    device.memories.ddr.bandwidth       100     GB/s   HC26-sambanova-sn50       V2
sn50-rack    scale_up.bandwidth_both_ways        400     GB/s   HC26-sambanova-sn50       V2
sn50-rack    scale_out.bandwidth_one_way         800     GB/s   HC26-sambanova-sn50       V2
sn50-rack    scale_up_devices                    256     devices HC26-sambanova-sn50      V2
sn50-rack    power                               20      kW     HC26-sambanova-sn50       V2
sn40l-rack   device.compute.bf16                 638     TFLOPS SN40L-PAPER               P
sn40l-rack   device.memories.sram.capacity       520     MiB    SN40L-PAPER               P
sn40l-rack   device.memories.hbm.capacity        64      GiB    SN40L-PAPER               P
sn40l-rack   device.memories.hbm.bandwidth       1.6     TB/s   HC24-sambanova-sn40l      V2
sn40l-rack   device.memories.ddr.capacity        1.5     TiB    SN40L-PAPER               P
sn40l-rack   device.memories.ddr.bandwidth       100     GB/s   HC24-sambanova-sn40l      V2
sn40l-rack   power                               10      kW     SN40L-PAPER               P
xeon6-host   device.memories.ddr.bandwidth       844.8   GB/s   XEON6                     I
xeon6-host   device.power                        500     W      XEON6                     V2
gaudi3-x8    device.memories.sram.capacity       96      MB     GAUDI3                    V2
gaudi3-x8    device.memories.sram.bandwidth      12.8    TB/s   GAUDI3                    V2
gaudi3-x8    device.memories.hbm.capacity        128     GB     GAUDI3                    V2
gaudi3-x8    device.memories.hbm.bandwidth       3.67    TB/s   GAUDI3                    V2
gaudi3-x8    device.compute.fp8                  1835    TFLOPS GAUDI3                    V2
gaudi3-x8    device.compute.bf16                 1835    TFLOPS GAUDI3                    V2
gaudi3-x8    scale_up.bandwidth_both_ways        1.2     TB/s   GAUDI3                    V2
gaudi3-x8    device.power                        900     W      GAUDI3                    V2
gaudi3-x8    price_usd                           125000  USD    GAUDI3                    P
mi300x-x8    device.memories.hbm.capacity        192     GB     SA-SPECS                  V2
mi300x-x8    device.memories.hbm.bandwidth       5.3     TB/s   SA-SPECS                  V2
mi300x-x8    device.compute.fp8                  2615    TFLOPS SA-SPECS                  V2
mi300x-x8    scale_up.bandwidth_one_way          448     GB/s   SA-SPECS                  V2
mi300x-x8    usd_per_h                           11.2    USD/h  SA-TCO                    P
mi355x-x8    device.memories.hbm.capacity        288     GB     SA-SPECS                  V2
mi355x-x8    device.compute.fp4                  10066   TFLOPS SA-SPECS                  V2
mi355x-x8    device.compute.fp8                  5033    TFLOPS SA-SPECS                  V2
mi355x-x8    scale_up.bandwidth_one_way          538     GB/s   SA-SPECS                  V2
mi355x-x8    device.power                        1400    W      SA-SPECS                  V2
mi355x-x8    usd_per_h                           15.2    USD/h  SA-TCO                    P
helios       device.memories.hbm.capacity        432     GB     HC26-amd-instinct-mi455x  V2
helios       device.memories.hbm.bandwidth       23.3    TB/s   HC26-amd-instinct-mi455x  V2
helios       device.compute.fp4                  40260   TFLOPS HC26-amd-instinct-mi455x  V2
helios       device.compute.fp8                  20130   TFLOPS HC26-amd-instinct-mi455x  V2
helios       device.compute.bf16                 5030    TFLOPS HC26-amd-instinct-mi455x  V2
helios       scale_up.bandwidth_both_ways        3.6     TB/s   HC26-amd-instinct-mi455x  V2
helios       scale_out.bandwidth_both_ways       43      TB/s   HC26-amd-helios-ualoe     V2
cs3          device.memories.sram.capacity       44      GB     CEREBRAS                  V2
cs3          device.memories.sram.bandwidth      21      PB/s   CEREBRAS                  V2
cs3          device.sparse.fp16                  125     PFLOPS CEREBRAS                  V2
cs3          scale_out.latency                   5       us     HC26-cerebras-cs4         V2
cs3          power                               23      kW     CEREBRAS                  P
trn3-ultra   count                               144     devices NEURON-TRN3              V
trn3-ultra   device.memories.hbm.capacity        144     GiB    NEURON-DOCS               V
trn3-ultra   device.memories.hbm.bandwidth       4.9     TB/s   NEURON-DOCS               V
trn3-ultra   device.compute.fp8                  2517    TFLOPS NEURON-DOCS               V
trn3-ultra   device.compute.bf16                 671     TFLOPS NEURON-DOCS               V
trn3-ultra   device.sparse.bf16                  2517    TFLOPS NEURON-DOCS               V
trn3-ultra   scale_up.bandwidth_both_ways        2.56    TB/s   NEURON-DOCS               V
trn3-ultra   scale_out.bandwidth_one_way         28800   Gb/s   NEURON-TRN3               V
h800-x8      device.memories.hbm.bandwidth       3430.4  GB/s   MEGASCALE                 P
h800-x8      device.compute.bf16                 989     TFLOPS MEGASCALE                 P
h800-x8      device.compute.fp8                  1980    TFLOPS STEP3                     P
h800-x8      scale_up.bandwidth_both_ways        400     GB/s   CHINA-PRESS               P
h800-x8      usd_per_h                           16      USD/h  STEP3                     P
h20-x8       device.memories.hbm.capacity        96      GB     MEGASCALE                 P
h20-x8       device.memories.hbm.bandwidth       4096    GB/s   MEGASCALE                 P
h20-x8       device.compute.bf16                 148     TFLOPS MEGASCALE                 P
h20-x8       device.compute.fp8                  296     TFLOPS STEP3                     P
h20-x8       scale_out.bandwidth_one_way         200     GB/s   MEGASCALE                 P
h20-x8       usd_per_h                           6.4     USD/h  STEP3                     P
a800-x8      device.memories.hbm.capacity        80      GB     MEGASCALE                 P
a800-x8      device.memories.hbm.bandwidth       2039    GB/s   MEGASCALE                 P
a800-x8      device.compute.bf16                 312     TFLOPS MEGASCALE                 P
a800-x8      usd_per_h                           6       USD/h  STEP3                     P
l40s-x8      device.memories.gddr.capacity       48      GB     MEGASCALE                 P
l40s-x8      device.memories.gddr.bandwidth      864     GB/s   MEGASCALE                 P
l40s-x8      device.compute.bf16                 362     TFLOPS MEGASCALE                 P
l40s-x8      device.compute.fp8                  733     TFLOPS L40S-DS                   V2
l40s-x8      device.sparse.fp8                   1466    TFLOPS L40S-DS                   V2
l40s-x8      scale_out.bandwidth_one_way         100     GB/s   MEGASCALE                 P
"""

UNKNOWN = """
groq3-lpx   device.power
groq3-lpx   device.layer_latency
groq3-lpx   power
groq3-lpx   price_usd
groq3-lpx   usd_per_h
groq3-lpx   scale_out.bandwidth_one_way
groq3-lpx   scale_out.latency
sn50-rack   device.memories.sram.bandwidth
sn50-rack   usd_per_h
sn40l-rack  device.memories.sram.bandwidth
sn40l-rack  scale_up.bandwidth_one_way
sn40l-rack  usd_per_h
helios      device.power
helios      power
helios      price_usd
helios      usd_per_h
cs3         device.compute.fp16
cs3         scale_out.bandwidth_one_way
trn3-ultra  power
trn3-ultra  usd_per_h
trn3-ultra  scale_up.bandwidth_one_way
gaudi3-x8   power
gaudi3-x8   scale_out.bandwidth_one_way
xeon6-host  device.compute.bf16
"""
"""What nobody publishes: inferred, with an interval and how."""

DISAGREE = """
vr-nvl72    host_memory                     27 54        SA-RUBIN
vr-nvl72    price_usd                       3.5e6 7.8e6  Morgan Stanley
sn50-rack   device.memories.ddr.capacity    256 2000     press
helios      device.memories.hbm.bandwidth   19.6 23.3    CES
gaudi3-x8   device.compute.fp8              1835 1856    press
sn40l-rack  device.memories.hbm.bandwidth   1 2          other sources
sn40l-rack  device.memories.ddr.bandwidth   100 200      SN40L-PAPER
trn3-ultra  scale_up.bandwidth_both_ways    2.199 2.56   NEURON-TRN3
h800-x8     device.memories.hbm.bandwidth   3350 3430.4  STEP3
gb200-nvl72 price_usd                       2e6 4e6      Morgan Stanley
"""
"""Where sources differ: the interval holds them all, the note names who differs."""


def rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


@functools.cache
def figures_of(system: str) -> dict[str, Figure]:
    return dict(figures(load_library().system(system)))


@pytest.mark.parametrize("row", rows(FACTS), ids=lambda row: f"{row[0]} {row[1]}")
def test_a_figure_is_what_its_source_says(row: list[str]) -> None:
    system, what, value, unit, source, confidence = row
    figure = figures_of(system)[what]
    assert (figure.value, figure.unit) == (float(value), unit)
    assert (figure.source, figure.confidence.value) == (source, confidence)


@pytest.mark.parametrize("row", rows(UNKNOWN), ids=lambda row: f"{row[0]} {row[1]}")
def test_what_nobody_publishes_is_inferred_with_an_interval(row: list[str]) -> None:
    figure = figures_of(row[0])[row[1]]
    assert figure.confidence is Confidence.I
    assert figure.low_si < figure.high_si
    assert figure.note


@pytest.mark.parametrize("row", rows(DISAGREE), ids=lambda row: f"{row[0]} {row[1]}")
def test_where_sources_differ_the_interval_holds_them_and_the_note_says_so(row: list[str]) -> None:
    system, what, low, high, *who = row
    figure = figures_of(system)[what]
    ends = [figure.value if end is None else end for end in (figure.low, figure.high)]
    assert ends == [float(low), float(high)]
    assert " ".join(who).lower() in figure.note.lower()


def test_every_system_but_the_machine_of_the_tests_is_in_the_table() -> None:
    assert {row[0] for row in rows(FACTS)} == set(load_library().systems) - {"cpu-pair"}


def test_no_sparse_rate_is_declared_as_a_dense_one() -> None:
    for name in load_library().systems:
        device = load_library().system(name).device
        for number_format, sparse in device.sparse.items():
            assert device.rate(number_format).si < sparse.si, name
    wafer = load_library().system("cs3").device
    assert wafer.rate("fp16").high_si <= wafer.sparse["fp16"].si / 8


def test_one_way_is_at_most_half_of_both_ways_added() -> None:
    for name, system in load_library().systems.items():
        for link in (system.scale_up, system.scale_out):
            both = link.bandwidth_both_ways
            assert both is None or link.bandwidth_one_way.si <= both.si / 2 * 1.01, name


@pytest.mark.parametrize(
    ("system", "what", "total"),
    [
        ("sn50-rack", "sram", 6.9e9),
        ("sn50-rack", "hbm", 1.024e12),
        ("sn40l-rack", "sram", 8.7e9),
        ("sn40l-rack", "ddr", 24 * 2.0**40),
        ("helios", "hbm", 31.1e12),
        ("trn3-ultra", "hbm", 20_736 * 2.0**30),
        ("gb200-nvl72", "hbm", 13.4e12),
        ("gb300-nvl72", "hbm", 20.0e12),
        ("vr-nvl72", "hbm", 20.7e12),
    ],
)
def test_a_rack_holds_what_is_published_for_it(system: str, what: str, total: float) -> None:
    rack = load_library().system(system)
    assert rack.devices * rack.device.memory(what).capacity.si == pytest.approx(total, rel=0.005)


@pytest.mark.parametrize(
    ("system", "number_format", "rate"),
    [
        ("sn50-rack", "bf16", 25.6e15),
        ("helios", "fp8", 1.45e18),
        ("helios", "fp4", 2.9e18),
        ("vr-nvl72", "fp8", 1260e15),
        ("vr-nvl72", "bf16", 288e15),
        ("gb300-nvl72", "fp4", 1080e15),
        ("trn3-ultra", "fp8", 362e15),
        ("groq3-lpx", "fp8", 307.2e15),
    ],
)
def test_a_rack_computes_what_is_published_for_it(system: str, number_format: str, rate: float) -> None:
    rack = load_library().system(system)
    assert rack.devices * rack.device.rate(number_format).si == pytest.approx(rate, rel=0.005)


@pytest.mark.parametrize("system", ["sn50-rack", "sn40l-rack"])
def test_an_rdu_has_three_levels_of_memory_and_serves_from_hbm(system: str) -> None:
    device = load_library().system(system).device
    assert [memory.name for memory in device.memories] == ["sram", "hbm", "ddr"]
    assert device.main.name == "hbm"
