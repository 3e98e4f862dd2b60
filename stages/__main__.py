"""`python -m stages ...` is `s4m ...`, for launchers that start modules: `torchrun -m stages ...`."""

from stages.cli import main

if __name__ == "__main__":
    main()
