"""What an experiment leaves in its folder: each file has its reader and its writer here, and no other.

run.json and LOCK (`run_record`), iter_N.pth and weights.safetensors by name (`checkpoints`),
metrics.jsonl (`metrics`), generations.jsonl (`generation_log`), evaluation.json (`evaluation_file`).
"""
