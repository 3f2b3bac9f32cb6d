"""The job that a fleet was compiled from, kept beside its plan to be asked again with a change."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from disaggc.errors import JobError
from disaggc.plans.job import Job, SearchSpec, TierSpec, parse_job
from disaggc.records import unstructure

JOB_FILE = "job.json"


def kept(job: Job, tiers: Sequence[TierSpec], root: Path) -> Job:
    """The job with nothing left open: lengths of traces in it, declared tiers spelled out, no narrowed grid.

    Paths are relative to the model's folder, so that the job is the same wherever it is compiled.

    Args:
        job: As the user wrote it.
        tiers: Its tiers with every field filled in.
        root: The folder that its paths are relative to.
    """
    model = root / job.model.onnx
    draft = job.model.draft and os.path.relpath((root / job.model.draft).resolve(), model.parent.resolve())
    spelled = tuple(replace(tier, like="", trace="") for tier in tiers)
    spec = replace(job.model, onnx=model.name, draft=draft)
    return replace(job, model=spec, tier=spelled, search=SearchSpec())


def dump_job(job: Job) -> bytes:
    """The bytes of a job's file; equal jobs give equal bytes."""
    return (json.dumps(unstructure(job), indent=1, ensure_ascii=False) + "\n").encode()


def open_job(folder: Path) -> Job:
    """The job of a fleet's folder.

    Raises:
        JobError: It is not there, is no JSON, or a field does not check.
    """
    path = folder / JOB_FILE
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise JobError(
            f"'{folder}' holds no {JOB_FILE} ({error.strerror}). Compile it again, or add --job JOB.toml."
        ) from error
    except ValueError as error:
        raise JobError(f"'{path}' is not JSON: {error}. Compile it again, or add --job JOB.toml.") from error
    return parse_job(data, str(path))
