"""Puts failpoints into workers and APIs: every Python program that has this folder on its path imports this module."""

import sys

if sys.orig_argv[1:] in (["-m", "worker"], ["-m", "api"]):
    from tests.faults import failpoints

    failpoints.install()
