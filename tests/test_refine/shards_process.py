"""Runs shards of `s4m refine` as processes of their own and kills them: a server of one request a line.

`{"arguments": {...}, "shards": ["1/2", "2/2"], "kill": ["2/2"]}` on standard input forks one child per shard.
The children of the shards to kill get SIGKILL once they have committed a part; the others may end. The
answer holds the exit status of each child. Forking saves each of them the imports.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from s4m_pipeline.registry import register_all
from stages.refine import refine


def _child(arguments: dict, shard: str) -> None:
    paths = {name: Path(arguments[name]) for name in ("config", "teacher", "work_dir")}
    try:
        refine(
            **paths,
            shard=shard,
            generation=None,
            preview=None,
            follow=False,
            ground_truth=None,
            overrides=arguments["overrides"],
            trust_checkpoint=False,
        )
    except BaseException as error:
        print(f"{shard}: {error!r}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def _kill_after_a_part(child: int, shard: str, parts: Path) -> None:
    prefix = f"part-{int(shard.split('/')[0]):04d}-"
    while not list(parts.glob(f"{prefix}*")):
        if os.waitpid(child, os.WNOHANG)[0]:
            raise SystemExit(f"{shard} ended before it could be killed")
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)


def _serve(request: dict) -> list[int]:
    children = {}
    for shard in request["shards"]:
        child = os.fork()
        if child == 0:
            _child(request["arguments"], shard)
        children[shard] = child
    parts = Path(request["arguments"]["work_dir"]) / "cache/gen-0001/parts"
    for shard in request.get("kill", []):
        _kill_after_a_part(children[shard], shard, parts)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children.values()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    register_all()
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)
