"""Runs shards of `s4m refine` as processes of their own and kills them: a server of one request a line.

`{"arguments": {...}, "shards": ["1/2", "2/2"], "kill": ["2/2"]}` on standard input forks one child per shard.
The children of the shards to kill send themselves SIGKILL as soon as their first part is stored, or with
`"before": ["shard-0001.json", 2]` just before the second rename to that name; the others may end. The answer
holds the exit status of each child. Forking saves each of them the imports.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from s4m_cache import writer
from s4m_pipeline.models.registry import register_all
from s4m_stages.refine import refine


def _child(arguments: dict, shard: str) -> None:
    paths = {name: Path(arguments[name]) for name in ("config_path", "teacher", "work_dir")}
    try:
        refine(**paths, shard=shard, overrides=arguments["overrides"])
    except BaseException as error:
        print(f"{shard}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def _die_after_a_part() -> None:
    write_part = writer.write_part

    def write_and_die(path: Path, images: list) -> None:
        write_part(path, images)
        os.kill(os.getpid(), signal.SIGKILL)

    writer.write_part = write_and_die


def _die_before_renaming(name: str, count: int) -> None:
    renames = 0

    def audit(event: str, arguments: tuple) -> None:
        nonlocal renames
        if event == "os.rename" and Path(arguments[1]).name == name:
            renames += 1
            if renames == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def _serve(request: dict) -> list[int]:
    children = {}
    for shard in request["shards"]:
        child = os.fork()
        if child == 0:
            if shard in request.get("kill", []):
                _die_before_renaming(*request["before"]) if "before" in request else _die_after_a_part()
            _child(request["arguments"], shard)
        children[shard] = child
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children.values()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    register_all()
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)
