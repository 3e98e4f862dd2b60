"""`python -m stages ...` is `s4m ...`, for launchers that start modules: `torchrun -m stages ...`.

Run as a file, as `s4m_pipeline.children` does, it takes the code beside it, installed or not.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    root = str(Path(__file__).parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)

    from stages.cli import main

    main()
