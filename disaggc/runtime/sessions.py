"""Opens onnxruntime sessions: of a stage, whose weights lie in the model's folder, or of a model.

``SessionOptions.add_external_initializers`` copies each weight. The folder option used here makes
onnxruntime map the model's own files, so that weights of several sessions share their pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from disaggc.errors import PlanError
from disaggc.plans import Stage
from disaggc.runtime.engine import InferenceSession, Session
from disaggc.runtime.failures import FAILURES, load_error
from disaggc.runtime.threads import session_options
from disaggc.runtime.weights import is_outside

_PROVIDERS = ["CPUExecutionProvider"]
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class Opener(Protocol):
    """Gives the session that executes a stage."""

    def __call__(self, stage: Stage) -> Session:
        """The session of a stage; equal subgraphs may share one."""


class StageOpener:
    """Opens the subgraphs of a plan folder, each once, over the weights of the model's folder."""

    def __init__(
        self,
        folder: Path,
        model_folder: Path,
        threads: int,
        digests: Mapping[str, str] | None = None,
        *,
        keeps_memory: bool = True,
    ) -> None:
        """Prepare to open.

        Args:
            folder: The plan folder.
            model_folder: The folder that weight files are relative to.
            threads: Threads to compute with.
            digests: SHA-256 of subgraphs, as far as the plan knows them.
            keeps_memory: Whether sessions keep what they once allocated, to be faster, for ever.
        """
        self._folder = folder
        self._digests = digests or {}
        self._model_folder = model_folder
        self._threads = threads
        self._keeps_memory = keeps_memory
        self._sessions: dict[str, Session] = {}

    def __call__(self, stage: Stage) -> Session:
        """The session of a stage's subgraph.

        Raises:
            PlanError: The subgraph was not written, lies outside the plan folder, was changed, or cannot
                be loaded.
        """
        if not stage.subgraph:
            raise PlanError(
                f"Stage {stage.index} on '{stage.pool}' has no subgraph. Compile the plan with them."
            )
        if stage.subgraph not in self._sessions:
            self._sessions[stage.subgraph] = self._open(stage.subgraph)
        return self._sessions[stage.subgraph]

    def _open(self, subgraph: str) -> Session:
        options = session_options(self._threads)
        options.enable_cpu_mem_arena = self._keeps_memory
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(self._model_folder.resolve()))
        data = self._read(subgraph)
        try:
            return InferenceSession(data, options, providers=_PROVIDERS, enable_fallback=0)
        except FAILURES as error:
            raise load_error(error, subgraph, is_stage=True) from error

    def _read(self, subgraph: str) -> bytes:
        """What will be opened is what was checked: the bytes are read once."""
        if is_outside(subgraph, self._folder):
            raise PlanError(
                f"Subgraph '{subgraph}' lies outside the plan folder '{self._folder}'. "
                f"Compile the plan again."
            )
        try:
            data = (self._folder / subgraph).read_bytes()
        except OSError as error:
            raise PlanError(
                f"Plan folder '{self._folder}' has no '{subgraph}'. Compile the plan again."
            ) from error
        digest = self._digests.get(subgraph)
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise PlanError(
                f"'{subgraph}' in plan '{self._folder}' was changed after it was compiled. Compile it again."
            )
        return data


class ModelOpener:
    """Opens a whole model from its own file, once, whatever the stage."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._threads = threads
        self._session: Session | None = None

    def __call__(self, stage: Stage) -> Session:  # noqa: ARG002 - one model, one session
        """The session of the model.

        Raises:
            ModelError: It cannot be loaded.
        """
        if self._session is None:
            try:
                options = session_options(self._threads)
                self._session = InferenceSession(
                    str(self._path), options, providers=_PROVIDERS, enable_fallback=0
                )
            except FAILURES as error:
                raise load_error(error, self._path.name, is_stage=False) from error
        return self._session
