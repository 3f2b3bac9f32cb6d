"""Every op has a rule, every rule fits its op's schema in every version, and what is free says why."""

from __future__ import annotations

import onnx
import onnx.defs
import onnxruntime
import onnxruntime.capi.onnxruntime_pybind11_state as native
import pytest
from onnx import helper
from reference import RULES

from disaggc.cost import CostRule
from disaggc.library import declarations, read_toml

OLDEST = 11
BY_BODY = {"If", "Loop", "Scan", "SequenceMap"}
"""Control flow costs what its bodies do. Out of scope: ai.onnx.ml and the training and preview domains."""

LLM = """
    Attention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DynamicSparseAttention
    GatedDeltaNet GroupQueryAttention LinearAttention MultiHeadAttention PackedAttention
    PackedMultiHeadAttention PagedAttention QAttention SparseAttention SparseAttentionIndexer
    SparsePagedAttention CausalConvWithState VarlenCausalConvWithState Mamba2Verify EngramGate
    HyperConnectionLowRankMix HyperConnectionPostMix HyperConnectionPreMix PackedSparseAttentionIndexer
    QEmbedLayerNormalization LinearAttentionGate
    GemmaRotaryEmbedding MRotaryEmbedding RMSNormRotary RotaryEmbedding RelativePositionBias
    BranchwiseRMSNorm EmbedLayerNormalization GatedRMSNorm SkipLayerNormalization
    SkipSimplifiedLayerNormalization MoE MoEGroupRouter MoEPacked QMoE RouterGateUpProj
    DynamicQuantizeMatMul FusedGemm FusedMatMul FusedMatMulActivation GemmFastGelu GemmFloat8
    MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight MatMulBnb4 MatMulFpQ4 MatMulInteger16
    MatMulIntegerToFloat MatMulNBits MatMulNBitsMlp MatMulNBitsQLoRA MatMulNBitsQkv MatMulPacked QGemm
    TransposeMatMul GatherBlockQuantized GatherPacked BiasAdd BiasGelu BiasSoftmax BiasSplitGelu
    FastGelu GatedAdd Gelu QuickGelu ScaledSiLU SwiGLU DequantizeLinear QuantizeLinear
""".split()  # noqa: SIM905 (sixty lines otherwise)

SCHEMAS: dict[str, list[onnx.defs.OpSchema]] = {}
for _schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda s: -s.since_version):
    if _schema.domain == "":
        SCHEMAS.setdefault(_schema.name, []).append(_schema)
CONTRIB = {s.name: s for s in native.get_all_operator_schema() if s.domain == "com.microsoft"}


def _since_oldest(op: str) -> list[onnx.defs.OpSchema]:
    """The versions that are in force in some opset from ``OLDEST`` on, newest first."""
    versions = SCHEMAS[op]
    in_force = [s for s in versions if s.since_version > OLDEST]
    return in_force + [s for s in versions if s.since_version <= OLDEST][:1]


def test_every_standard_op_has_a_rule_or_a_body() -> None:
    assert SCHEMAS.keys() - RULES.by_op.keys() == BY_BODY


def test_every_rule_without_a_domain_is_of_a_standard_op_or_of_onnxruntimes_norm() -> None:
    bare = {op for op in RULES.by_op if "::" not in op}
    assert bare - SCHEMAS.keys() == {"SimplifiedLayerNormalization"}


@pytest.mark.parametrize("op", LLM)
def test_every_contrib_op_of_llm_exports_has_a_rule(op: str) -> None:
    assert f"com.microsoft::{op}" in RULES.by_op


def test_no_two_rules_are_of_one_op() -> None:
    files = declarations("passes", "costs").values()
    ops = [op for path in files for rule in read_toml(path).get("rule", []) for op in rule["ops"]]
    assert len(ops) == len(set(ops)) == len(RULES.by_op)


def test_what_is_free_has_a_reason_and_no_flops() -> None:
    for path in declarations("passes", "costs").values():
        for rule in read_toml(path).get("rule", []):
            assert (rule["kind"] == "free") == ("why" in rule)
            assert "flops" not in rule or rule["kind"] != "free"


@pytest.mark.parametrize("op", sorted(SCHEMAS.keys() & RULES.by_op.keys()))
def test_a_rule_fits_every_version_of_its_op(op: str) -> None:
    rule = RULES.by_op[op]
    for schema in _since_oldest(op):
        _check_positions(rule, schema)
        for name in rule.flops.names & rule.signature.attributes:
            given = schema.attributes.get(name)
            assert name in rule.defaults or (given is not None and given.required), name


def _check_positions(rule: CostRule, schema: onnx.defs.OpSchema) -> None:
    """A name means the same slot in every version: versions rename slots, and add some at the end."""
    inputs, outputs = [i.name for i in schema.inputs], [o.name for o in schema.outputs]
    for newest, older in ((rule.signature.inputs, inputs), (rule.signature.outputs, outputs)):
        for name in rule.flops.names & set(newest) & set(older):
            assert older.index(name) == newest.index(name), (rule.op, schema.since_version)


@pytest.mark.parametrize("op", sorted(SCHEMAS.keys() & RULES.by_op.keys()))
def test_defaults_are_those_of_the_schema(op: str) -> None:
    declared = {name: a.default_value for name, a in SCHEMAS[op][0].attributes.items()}
    for name, value in RULES.by_op[op].defaults.items():
        assert _plain(declared[name]) == value, name


@pytest.mark.parametrize("kind", sorted(op for op in RULES.by_op if op.startswith("com.microsoft::")))
def test_declared_signatures_of_contrib_ops_are_onnxruntimes(kind: str) -> None:
    rule, schema = RULES.by_op[kind], _contrib(kind)
    inputs, outputs = [i.name for i in schema.inputs], [o.name for o in schema.outputs]
    assert list(rule.signature.inputs) == inputs[: len(rule.signature.inputs)]
    assert list(rule.signature.outputs) == outputs[: len(rule.signature.outputs)]
    assert rule.signature.attributes <= set(schema.attributes)
    for name, value in rule.defaults.items():
        default = onnx.AttributeProto.FromString(schema.attributes[name]._default_value)
        assert _plain(default) == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6))


def _contrib(kind: str) -> native.schemadef.OpSchema:
    """The op's schema; an onnxruntime older than the ops that it lacks has none to compare."""
    op = kind.partition("::")[2]
    if op not in CONTRIB and tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} has no {op} yet")
    return CONTRIB[op]


def _plain(attribute: onnx.AttributeProto) -> object:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value
