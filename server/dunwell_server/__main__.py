"""`python -m dunwell_server`: the same as the `dunwell` command."""

from dunwell_server.cli import main

if __name__ == "__main__":
    main()
