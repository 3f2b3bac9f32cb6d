"""A calibrated machine is a system like any other: written, read back, described, with its provenance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from known_machine import KERNELS, MACHINE, MESSAGES, known_system, loaded

from disaggc.calibration import system_of, toml_of
from disaggc.targets import Confidence, figures


def test_a_written_system_is_read_as_it_was(tmp_path: Path) -> None:
    system = known_system()
    assert loaded(tmp_path, system) == system
    assert toml_of(loaded(tmp_path, system)) == toml_of(system)
    assert [figure for _, figure in figures(loaded(tmp_path, system))] == [f for _, f in figures(system)]


def test_every_measured_figure_says_with_what() -> None:
    measured = [f for _, f in figures(known_system()) if f.confidence is Confidence.M]
    assert len(measured) > 20
    assert all(f.source == "measured-here" and f.date == "2026-11-25" and f.note for f in measured)
    rate = known_system().device.main.bandwidth
    assert "measured on this machine, 2026-11-25, onnxruntime 1.0, 1 thread" in rate.note
    assert (rate.low, rate.value, rate.high) == (15.2, 16.0, 16.8)


def test_what_was_not_measured_is_marked_as_inferred() -> None:
    inferred = {name for name, f in figures(known_system()) if f.confidence is Confidence.I}
    assert "power" in inferred
    assert "device.efficiency.ec.norm" in inferred


def test_a_machine_that_was_not_quiet_says_so(tmp_path: Path) -> None:
    busy = replace(MACHINE, spread=0.4)
    assert not busy.is_quiet
    system = loaded(tmp_path, system_of("here", busy, KERNELS, MESSAGES))
    assert "repeats lie 40% apart: NOT QUIET" in system.notes
    assert "NOT QUIET" in system.device.main.bandwidth.note
    assert MACHINE.is_quiet


def test_the_latency_of_a_message_ends_at_that_of_waking_its_receiver() -> None:
    latency = known_system().scale_out.latency
    assert (latency.value, latency.high) == (7, 50)
    assert "to one that sleeps and is woken" in latency.note


def test_a_machine_with_room_for_one_executor_has_no_measured_way_between_two(tmp_path: Path) -> None:
    system = loaded(tmp_path, known_system(messages=replace(MESSAGES, occupancy=None, latency=None)))
    assert system.scale_out.latency.confidence is Confidence.I
    assert "room for one executor only" in system.scale_out.latency.note


def test_a_machine_whose_cache_is_no_faster_has_one_memory(tmp_path: Path) -> None:
    flat = replace(KERNELS, main_bytes_per_s=KERNELS.bytes_per_s["gemm"])
    assert [m.name for m in loaded(tmp_path, known_system(kernels=flat)).device.memories] == ["ddr"]
