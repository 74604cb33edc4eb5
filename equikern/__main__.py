"""`python -m equikern`."""

from equikern.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
