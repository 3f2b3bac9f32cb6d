"""Graph to graph, one pass a file: what repeats, what each op is for, what it costs, what is placed.

``pipeline.run`` carries out a declared order (passes/pipelines/*.toml) and verifies after each pass.
"""

from disaggc.passes.pipeline import Pass, load_pipeline, run

__all__ = ["Pass", "load_pipeline", "run"]
