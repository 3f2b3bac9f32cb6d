"""Run in processes of their own: onnxruntime's shared pool is made once and stays."""

import pickle
import subprocess
import sys
from pathlib import Path

from .splitting import contiguous, read, split

PROGRAM = """
import pickle, sys
from pathlib import Path
from disaggc.runtime import verify

folder, models = Path(sys.argv[1]), Path(sys.argv[2])
plan = pickle.loads((folder / "plan.pickle").read_bytes())
for threads in map(int, sys.argv[3:]):
    found = verify(plan, folder, models, [[1, 2, 3]], 4, threads=threads)
    print(found.planned.threads, found.tokens_equal, *found.planned.tokens[0])
"""


def lines(folder: Path, shared_models: Path, *threads: int) -> list[list[str]]:
    path = shared_models / "llama.gqa_moe.onnx"
    plan = split(path, folder, contiguous(read(path), 3, seed=0))
    (folder / "plan.pickle").write_bytes(pickle.dumps(plan))
    command = [sys.executable, "-c", PROGRAM, str(folder), str(path.parent), *map(str, threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own program
    return [line.split() for line in done.stdout.splitlines()]


def test_the_shared_pool_is_made_by_the_first_who_asks_and_serves_all(
    shared_models: Path, tmp_path: Path
) -> None:
    found = lines(tmp_path, shared_models, 1, 2, 2, 3, 1)
    assert [int(line[0]) for line in found] == [1, 2, 2, 2, 2]
    assert {tuple(line[1:]) for line in found} == {("True", *found[0][2:])}
