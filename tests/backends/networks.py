"""Feed-forward networks in the forms that exporters write them in."""

from __future__ import annotations

from typing import Any

import numpy as np

from .shards import CONTRIB, EXPERTS, HIDDEN, WIDTH, Network, drawn, op

BLOCK = 16


def gelu_mlp() -> Network:
    """Two products with biases, a norm before and a residual add behind."""
    return Network(
        (
            op("LayerNormalization", "x scale", "n", "norm", axis=-1),
            op("MatMul", "n w1", "a"),
            op("Add", "a b1", "b"),
            op("Gelu", "b", "c"),
            op("MatMul", "c w2", "d"),
            op("Add", "b2 d", "e"),
            op("Add", "x e", "y"),
        ),
        {
            "scale": drawn(0, HIDDEN),
            "w1": drawn(1, HIDDEN, WIDTH),
            "b1": drawn(2, WIDTH),
            "w2": drawn(3, WIDTH, HIDDEN),
            "b2": drawn(4, HIDDEN),
        },
    )


def gemm_mlp() -> Network:
    """Gemm with transposed weights, its biases in it, and a reshape between."""
    return Network(
        (
            op("Gemm", "x w1 b1", "a", transB=1),
            op("Relu", "a", "b"),
            op("Reshape", "b rows", "c"),
            op("Gemm", "c w2 b2", "y", transB=1),
        ),
        {
            "w1": drawn(1, WIDTH, HIDDEN),
            "b1": drawn(2, WIDTH),
            "rows": np.array([-1, WIDTH]),
            "w2": drawn(3, HIDDEN, WIDTH),
            "b2": drawn(4, HIDDEN),
        },
    )


def gated() -> Network:
    """Gate and up apart, SiLU written out."""
    return Network(
        (
            op("MatMul", "x wg", "g"),
            op("Sigmoid", "g", "s"),
            op("Mul", "g s", "silu"),
            op("MatMul", "x wu", "u"),
            op("Mul", "silu u", "h"),
            op("MatMul", "h wd", "y"),
        ),
        {"wg": drawn(1, HIDDEN, WIDTH), "wu": drawn(2, HIDDEN, WIDTH), "wd": drawn(3, WIDTH, HIDDEN)},
    )


def fused_gate() -> Network:
    """Gate and up in one product, split in halves; a bias on both."""
    return Network(
        (
            op("MatMul", "x wgu", "gu"),
            op("Add", "gu b", "gub"),
            op("Split", "gub", "g u", axis=-1, num_outputs=2),
            op("Tanh", "g", "t"),
            op("Mul", "t u", "h"),
            op("MatMul", "h wd", "y"),
        ),
        {"wgu": drawn(1, HIDDEN, 2 * WIDTH), "b": drawn(2, 2 * WIDTH), "wd": drawn(3, WIDTH, HIDDEN)},
    )


def interleaved_gate() -> Network:
    """Gate and up element by element, told apart by slices with a step."""
    bounds = {f"i{n}": np.array([n]) for n in (0, 1, 2)}
    return Network(
        (
            op("MatMul", "x wgu", "gu"),
            op("Slice", "gu i0 end i1 i2", "g"),
            op("Slice", "gu i1 end i1 i2", "u"),
            op("Clip", "g - top", "c"),
            op("Mul", "c u", "h"),
            op("MatMul", "h wd", "y"),
        ),
        {
            "wgu": drawn(1, HIDDEN, 2 * WIDTH),
            "wd": drawn(3, WIDTH, HIDDEN),
            "end": np.array([2**31]),
            "top": np.array(0.5, np.float32),
            **bounds,
        },
    )


def transposed_weights() -> Network:
    """Weights that a graph transposes and casts before it multiplies."""
    return Network(
        (
            op("Transpose", "w1", "w1t", perm=[1, 0]),
            op("MatMul", "x w1t", "a"),
            op("Relu", "a", "b"),
            op("Cast", "w2", "w2f", to=1),
            op("Transpose", "w2f", "w2t"),
            op("MatMul", "b w2t", "y"),
        ),
        {"w1": drawn(1, WIDTH, HIDDEN), "w2": drawn(3, HIDDEN, WIDTH).astype(np.float16)},
    )


def packed_weights(flat: bool, zero_points: bool) -> Network:
    """MatMulNBits of four bits, with scales as a table or flat."""
    rng = np.random.default_rng(5)
    weights: dict[str, np.ndarray[Any, Any]] = {}

    def packed(name: str, source: str, target: str, inner: int, outer: int) -> tuple[str, Any]:
        blocks = inner // BLOCK
        weights[f"{name}.q"] = rng.integers(0, 256, (outer, blocks, BLOCK // 2), dtype=np.uint8)
        scales = (rng.random((outer, blocks)) * 0.05 + 0.01).astype(np.float32)
        weights[f"{name}.s"] = scales.reshape(-1) if flat else scales
        zeros = rng.integers(0, 256, (outer, (blocks + 1) // 2), dtype=np.uint8)
        if zero_points:
            weights[f"{name}.z"] = zeros.reshape(-1) if flat else zeros
        named = f"{source} {name}.q {name}.s" + (f" {name}.z" if zero_points else "")
        return op("MatMulNBits", named, target, domain=CONTRIB, K=inner, N=outer, bits=4, block_size=BLOCK)

    wide = 8 * BLOCK
    return Network(
        (
            packed("gate", "x", "g", HIDDEN, wide),
            packed("up", "x", "u", HIDDEN, wide),
            op("Sigmoid", "g", "s"),
            op("Mul", "s u", "h"),
            packed("down", "h", "y", wide, HIDDEN),
        ),
        weights,
    )


def fused_experts(normalised: bool, activation: str = "silu") -> Network:
    """A router and all experts in one op, with biases."""
    rows = 2 * WIDTH if activation == "swiglu" else WIDTH
    fusion = {"swiglu_fusion": 1} if activation == "swiglu" else {}
    attributes = {
        "k": 3,
        "normalize_routing_weights": int(normalised),
        "activation_type": activation,
        **fusion,
    }
    return Network(
        (
            op("MatMul", "x wr", "r", "router"),
            op("MoE", "x r w1 b1 w2 b2", "m", "experts", domain=CONTRIB, **attributes),
            op("Add", "x m", "y", "experts"),
        ),
        {
            "wr": drawn(1, HIDDEN, EXPERTS) * 5,
            "w1": drawn(2, EXPERTS, rows, HIDDEN),
            "b1": drawn(3, EXPERTS, rows),
            "w2": drawn(4, EXPERTS, HIDDEN, WIDTH),
            "b2": drawn(5, EXPERTS, HIDDEN),
        },
    )


def quantised_experts(normalised: bool = True) -> Network:
    """QMoE of four bits, a scale for each row."""
    rng = np.random.default_rng(7)

    def packed(rows: int, inner: int) -> np.ndarray[Any, Any]:
        return rng.integers(0, 256, (EXPERTS, rows, inner // 2), dtype=np.uint8)

    def scales(rows: int) -> np.ndarray[Any, Any]:
        return (rng.random((EXPERTS, rows)) * 0.05 + 0.01).astype(np.float32)

    weighed = {"k": 2, "normalize_routing_weights": int(normalised)}
    attributes = {**weighed, "activation_type": "silu", "expert_weight_bits": 4}
    return Network(
        (
            op("MatMul", "x wr", "r", "router"),
            op("QMoE", "x r w1 s1 - w2 s2", "y", "experts", domain=CONTRIB, **attributes),
        ),
        {
            "wr": drawn(1, HIDDEN, EXPERTS) * 5,
            "w1": packed(WIDTH, HIDDEN),
            "s1": scales(WIDTH),
            "w2": packed(HIDDEN, WIDTH),
            "s2": scales(HIDDEN),
        },
    )


def written_out_experts() -> Network:
    """Every expert for every token, weighed by a softmax over all, and a dense network added."""
    nodes = [op("MatMul", "x wr", "r", "router"), op("Softmax", "r", "p", "router", axis=-1)]
    nodes.append(
        op("Split", "p", " ".join(f"p{e}" for e in range(EXPERTS)), "router", axis=-1, num_outputs=EXPERTS)
    )
    weights = {"wr": drawn(1, HIDDEN, EXPERTS)}
    for e in range(EXPERTS):
        weights |= {f"u{e}": drawn(10 + e, HIDDEN, WIDTH), f"d{e}": drawn(50 + e, WIDTH, HIDDEN)}
        nodes += [
            op("MatMul", f"x u{e}", f"h{e}", "experts"),
            op("Relu", f"h{e}", f"a{e}", "experts"),
            op("MatMul", f"a{e} d{e}", f"o{e}", "experts"),
            op("Mul", f"o{e} p{e}", f"t{e}", "experts"),
        ]
    nodes.append(op("Add", "t0 t1", "s1", "experts"))
    nodes += [op("Add", f"s{e - 1} t{e}", f"s{e}", "experts") for e in range(2, EXPERTS)]
    nodes += [
        op("MatMul", "x wu", "hs", "shared_expert"),
        op("Relu", "hs", "as", "shared_expert"),
        op("MatMul", "as wd", "os", "shared_expert"),
        op("Add", f"s{EXPERTS - 1} os", "y", "shared_expert"),
    ]
    weights |= {"wu": drawn(90, HIDDEN, WIDTH), "wd": drawn(91, WIDTH, HIDDEN)}
    return Network(tuple(nodes), weights)


def looked_up_experts() -> Network:
    """The weights of the chosen experts gathered for each token and choice, multiplied in a batch."""
    return Network(
        (
            op("MatMul", "x wr", "r", "router"),
            op("TopK", "r two", "best chosen", "router", axis=-1),
            op("Softmax", "best", "p", "router", axis=-1),
            op("Unsqueeze", "x middle", "x3", "experts"),
            op("Unsqueeze", "x3 middle", "x4", "experts"),
            op("Gather", "w1 chosen", "u", "experts", axis=0),
            op("Gather", "b1 chosen", "ub", "experts", axis=0),
            op("Gather", "w2 chosen", "d", "experts", axis=0),
            op("MatMul", "x4 u", "h", "experts"),
            op("Unsqueeze", "ub before_last", "ub4", "experts"),
            op("Add", "h ub4", "hb", "experts"),
            op("Relu", "hb", "a", "experts"),
            op("MatMul", "a d", "o", "experts"),
            op("Squeeze", "o before_last", "o3", "experts"),
            op("Unsqueeze", "p last", "p3", "experts"),
            op("Mul", "o3 p3", "w", "experts"),
            op("ReduceSum", "w middle", "y", "experts", keepdims=0),
        ),
        {
            "wr": drawn(1, HIDDEN, EXPERTS) * 5,
            "w1": drawn(2, EXPERTS, HIDDEN, WIDTH),
            "b1": drawn(3, EXPERTS, WIDTH),
            "w2": drawn(4, EXPERTS, WIDTH, HIDDEN),
            "two": np.array([2]),
            "middle": np.array([1]),
            "before_last": np.array([-2]),
            "last": np.array([-1]),
        },
    )


def two_layers() -> Network:
    """A network, a norm that needs its sum, and another network."""
    return Network(
        (
            op("MatMul", "x wa", "a"),
            op("Relu", "a", "b"),
            op("MatMul", "b wb", "c"),
            op("Add", "x c", "s"),
            op("LayerNormalization", "s scale", "n", "norm", axis=-1),
            op("MatMul", "n wc", "q", "qkv"),
            op("Tanh", "q", "core", "core_attention"),
            op("Add", "s core", "r", "out_projection"),
            op("LayerNormalization", "r scale", "m", "norm", axis=-1),
            op("MatMul", "m wa", "d"),
            op("Relu", "d", "e"),
            op("MatMul", "e wb", "f"),
            op("Sub", "r f", "y"),
        ),
        {
            "wa": drawn(1, HIDDEN, WIDTH),
            "wb": drawn(2, WIDTH, HIDDEN),
            "wc": drawn(3, HIDDEN, HIDDEN),
            "scale": drawn(4, HIDDEN),
        },
    )
