"""Measurements: as ratios within one run, since machines differ. None of them is a test."""
