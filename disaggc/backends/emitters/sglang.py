"""SGLang: ``sglang.launch_server`` for each engine, ``sglang_router`` before prefill and decode apart."""

from __future__ import annotations

from disaggc.backends.emitters.launching import CUDA, LaunchEmitter, Stack
from disaggc.backends.emitters.serving import Engine

RELEASE = "0.5.23"


def _check(engine: Engine) -> None:
    """SGLang spreads one group over all nodes, whatever the ranks are."""
    assert engine.devices == engine.nodes * engine.node_devices


EMITTER = LaunchEmitter(
    Stack(
        name="sglang",
        title="SGLang",
        images={
            CUDA: f"lmsysorg/sglang:v{RELEASE}",
            "mi300x": f"lmsysorg/sglang:v{RELEASE}-rocm700-mi30x",
            "mi355x": f"lmsysorg/sglang:v{RELEASE}-rocm700-mi35x",
        },
        check=_check,
    )
)
