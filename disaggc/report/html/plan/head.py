"""The head of a page: the sentence, what was asked and what comes out, and the proof."""

from __future__ import annotations

from disaggc.plans import Plan
from disaggc.report.console import amount, compact, duration
from disaggc.report.html.views import Stat, Verdict
from disaggc.report.prose import verdict


def verdict_view(plan: Plan) -> Verdict:
    """The head: the sentence, the numbers that were asked for, and the proof."""
    p, goal, c = plan.prediction, plan.goal, plan.certificate
    speed, first = p.tokens_per_s_per_user.conservative, p.ttft_us.conservative / 1e3
    stats = [
        Stat("tokens/s", compact(p.tokens_per_s.conservative), f"up to {compact(p.tokens_per_s.optimistic)}"),
        Stat(
            "tokens/s per user",
            f"{speed:,.0f}",
            f"asked: {goal.tokens_per_s_per_user:,.4g}",
            speed >= goal.tokens_per_s_per_user,
        ),
        Stat(
            "time to first token",
            duration(first * 1e3),
            f"asked: {goal.ttft_ms:,.4g} ms",
            first <= goal.ttft_ms,
        ),
    ]
    if p.tokens_per_s_per_mw is not None:
        stats.append(Stat("tokens/s per MW", compact(p.tokens_per_s_per_mw), "of the systems used"))
    proof = (
        f"{c.status.capitalize()}: {c.candidates:,} configurations considered, {c.solved:,} cuts solved "
        f"exactly, gap {c.gap:.2%} of a tolerance of {c.tolerance:.1%}; re-priced without the solver: "
        f"{'agrees' if c.checked else 'DISAGREES'}."
    )
    formats = plan.formats
    model = (
        f"{plan.model.nodes:,} ops in {plan.model.layers} layers, "
        f"{amount(plan.model.parameters, '')} parameters; "
        f"weights {formats.weights}, cache {formats.kv}, activations {formats.activations}."
    )
    return Verdict(
        f"Plan for tier {goal.tier}", plan.model.name, verdict(plan), tuple(stats), (plan.mode, model, proof)
    )
