"""`python -m vmctl`, and the program `vmctl`."""

import signal


def main() -> None:
    """Run the command."""
    # The import takes half a second. A Ctrl-C meanwhile ends the process at once, without a traceback.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vmctl.cli.main import run  # noqa: PLC0415

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
