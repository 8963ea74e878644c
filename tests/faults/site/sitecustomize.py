"""Run by every Python program that is given this folder; puts failpoints into workers and APIs alone."""

import sys

if sys.orig_argv[1:] in (["-m", "worker"], ["-m", "api"]):
    from tests.faults import failpoints

    failpoints.install()
