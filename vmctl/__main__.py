"""`python -m vmctl`."""

from vmctl.cli.main import run

if __name__ == "__main__":
    run()
