"""An onnxruntime-genai decoder pipeline over the cut subgraphs.

Its pipeline takes any cut, attention state divided between stages included: a stage names the caches that
it reads and writes, and genai keeps them. Prefill and decode may be cut differently. What it does not take:
inputs other than token ids, positions and a mask; caches that are none of keys and values of one shape.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import onnx

from disaggc.backends.emitters.order import Order, Written
from disaggc.backends.emitters.source_model import model_path, place_weights
from disaggc.backends.emitters.subgraphs import Use, subgraphs_of, weight_files
from disaggc.errors import ModelError, PlanError
from disaggc.frontends import open_model
from disaggc.ir import Phase
from disaggc.plans import Plan, StateRef

CONFIG = "genai_config.json"
TYPE = "decoder-pipeline"

_FEEDS = {"token_ids": "input_ids", "attention_mask": "attention_mask", "position_ids": "position_ids"}
"""Kind of a feed to the name that genai_config.json has for its input."""

_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "*.jinja",
)
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_TOKEN_AXIS = 2


@dataclass(frozen=True, slots=True)
class OrtGenaiEmitter:
    """See the module."""

    takes: ClassVar[frozenset[str]] = frozenset(("model",))

    def emit(self, order: Order, folder: Path) -> Written:
        """Write genai_config.json, the subgraphs and their weights, and the tokenizer where there is one."""
        config = _config(order)
        subgraphs = subgraphs_of(order)
        for path in subgraphs:
            shutil.copyfile(order.folder / path, folder / Path(path).name)
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        for pattern in _TOKENIZER:
            for file in sorted(order.model_folder.glob(pattern)):
                shutil.copyfile(file, folder / file.name)
        notes = place_weights(weight_files(order.folder, subgraphs), order, folder)
        return Written((*notes, *_notes(config)), "onnxruntime_genai.Model(OUT)")


EMITTER = OrtGenaiEmitter()


@dataclass(frozen=True, slots=True)
class Caches:
    """Keys and values of every layer, as genai names them: '%d' stands for the layer.

    Heads and their width are the first layer's; genai reads other layers' off the subgraphs.
    """

    past: tuple[str, str]
    present: tuple[str, str]
    layers: int
    heads: int
    head_size: int
    in_place: bool


def caches_of(plan: Plan, windows: bool = False) -> Caches:
    """The caches of a plan.

    Args:
        plan: The plan.
        windows: Whether the configuration says which layers keep a window of tokens only.

    Raises:
        PlanError: genai has no words for them.
    """
    if not plan.states:
        raise _refused("has no caches")
    past = _templates([state.past for state in plan.states])
    present = _templates([state.present for state in plan.states])
    if len(past) != 2 or len(present) != 2:
        raise _refused(
            f"keeps {len(plan.states)} states like '{plan.states[0].past}', which are not one of keys and "
            f"one of values for each layer from 0 up"
        )
    extents = {state.past: _extents(state, windows) for state in plan.states}
    layers = len(plan.states) // 2
    for layer in range(layers):
        key, value = past[0] % layer, past[1] % layer
        if extents[key] != extents[value]:
            raise _refused(f"has caches '{key}' and '{value}' of unlike shapes; genai makes both of one")
    heads, head_size = extents[past[0] % 0]
    in_place = all(state.in_place for state in plan.states)
    return Caches((past[0], past[1]), (present[0], present[1]), layers, heads, head_size, in_place)


def _templates(names: Sequence[str]) -> list[str]:
    """Names with '%d' for the layer, in order of first use, if each has layers 0 to n - 1."""
    layers: dict[str, list[int]] = {}
    for name in names:
        match = re.fullmatch(r"(\D*)(\d+)(\D*)", name)
        if match is None or "%" in name:
            return []
        layers.setdefault(f"{match[1]}%d{match[3]}", []).append(int(match[2]))
    whole = [sorted(found) == list(range(len(names) // len(layers))) for found in layers.values()]
    return list(layers) if all(whole) else []


def _extents(state: StateRef, windows: bool) -> tuple[int, int]:
    """Heads, and the width of each."""
    extents = state.shape
    if len(extents) != 4 or state.axis != _TOKEN_AXIS:
        raise _refused(f"keeps cache '{state.past}' as {list(extents)}, not as [batch, heads, tokens, width]")
    if not windows and (isinstance(extents[_TOKEN_AXIS], int) or state.fixed_capacity is not None):
        raise _refused(
            f"keeps cache '{state.past}' for a window of tokens, and no {CONFIG} says which layers do"
        )
    heads, width = extents[1], extents[3]
    if not isinstance(heads, int) or not isinstance(width, int):
        raise _refused(f"has cache '{state.past}' of open extents {list(extents)}")
    return heads, width


def _refused(why: str) -> PlanError:
    return PlanError(
        f"Backend 'ort-genai' cannot express this plan: the model {why}. "
        f"Use --backend ort-package, whose stages onnxruntime opens one by one."
    )


def _config(order: Order) -> dict[str, Any]:
    """The model's own configuration with the pipeline in place of its one file, or a new one."""
    plan = order.plan
    own = _own_config(order)
    caches = caches_of(plan, windows=own is not None and "sliding_window" in own["model"]["decoder"])
    config = _new_config(order) if own is None else own
    decoder = config["model"]["decoder"]
    decoder.pop("filename", None)
    decoder.setdefault("session_options", {"log_id": "onnxruntime-genai", "provider_options": []})
    pipeline = _pipeline(order)
    if (
        len(pipeline) > 1
    ):  # each session has threads of its own; more than one in each spin against the others'
        decoder["session_options"].setdefault("intra_op_num_threads", 1)
    decoder |= {
        "num_hidden_layers": caches.layers,
        "num_key_value_heads": caches.heads,
        "head_size": caches.head_size,
        "inputs": _inputs(plan, caches),
        "outputs": {
            "logits": plan.logits,
            "present_key_names": caches.present[0],
            "present_value_names": caches.present[1],
        },
        "pipeline": [pipeline],
    }
    config["model"]["type"] = TYPE
    config["search"]["past_present_share_buffer"] = caches.in_place
    return config


def _inputs(plan: Plan, caches: Caches) -> dict[str, str]:
    unknown = [feed for feed in plan.feeds if feed.kind not in _FEEDS]
    if unknown:
        raise _refused(
            f"has input '{unknown[0].input}' ({unknown[0].kind}); genai feeds token ids, positions and a mask"
        )
    found = {_FEEDS[feed.kind]: feed.input for feed in plan.feeds}
    return found | {"past_key_names": caches.past[0], "past_value_names": caches.past[1]}


def _pipeline(order: Order) -> dict[str, object]:
    return {
        Path(path).stem: _stage(onnx.load(order.folder / path, load_external_data=False), path, uses)
        for path, uses in subgraphs_of(order).items()
    }


def _stage(subgraph: onnx.ModelProto, path: str, uses: tuple[Use, ...]) -> dict[str, object]:
    phases = {use.phase for use in uses}
    return {
        "filename": Path(path).name,
        "inputs": [value.name for value in subgraph.graph.input],
        "outputs": [value.name for value in subgraph.graph.output],
        "run_on_prompt": Phase.PREFILL in phases,
        "run_on_token_gen": Phase.DECODE in phases,
    }


def _own_config(order: Order) -> dict[str, Any] | None:
    """The genai_config.json that lies beside the model.

    Raises:
        ModelError: It is none.
    """
    config = _read_json(order.model_folder / CONFIG)
    if config is None:
        return None
    if not isinstance(config.get("model"), dict) or not isinstance(config["model"].get("decoder"), dict):
        raise ModelError(f"'{order.model_folder / CONFIG}' has no model.decoder. Remove or mend it.")
    config.setdefault("search", {})
    return config


def _new_config(order: Order) -> dict[str, Any]:
    """What can be told of a model without a configuration of its own."""
    source = open_model(model_path(order))
    logits = next(value for value in source.graph.output if value.name == order.plan.logits)
    vocabulary = logits.type.tensor_type.shape.dim[-1].dim_value
    if not vocabulary:
        raise _refused(f"does not say how wide its logits '{order.plan.logits}' are")
    context = order.plan.schedule.context_tokens
    model = {"context_length": context, "vocab_size": vocabulary, **_token_ids(order.model_folder)}
    return {"model": {**model, "decoder": {}}, "search": {"do_sample": False, "max_length": context}}


def _token_ids(folder: Path) -> dict[str, Any]:
    """Special tokens, from a Hugging Face configuration beside the model."""
    found: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        declared = _read_json(folder / name) or {}
        found |= {key: declared[key] for key in _SPECIAL_TOKENS if declared.get(key) is not None}
    return found


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot read '{path}': {error}. Remove or mend it.") from error
    if not isinstance(found, dict):
        raise ModelError(f"'{path}' is no JSON object. Remove or mend it.")
    return found


def _notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    if "eos_token_id" in config["model"]:
        return ()
    return ("No configuration tells the end-of-text token: generation ends at max_length.",)
