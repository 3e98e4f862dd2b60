"""`python -m s4m_stages ...` is `s4m ...`, for launchers that start modules: `torchrun -m s4m_stages ...`."""

from s4m_stages.cli import main

if __name__ == "__main__":
    main()
