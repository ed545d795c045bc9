"""`python -m flanlab` is the same as `flan`."""

from flanlab.cli.main import main

if __name__ == "__main__":
    main()
