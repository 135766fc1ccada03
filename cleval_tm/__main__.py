"""``python -m cleval_tm``: the same as ``cleval-tm``."""

from cleval_tm.cli import main

if __name__ == "__main__":
    main()
