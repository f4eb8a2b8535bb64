"""Checks of the manifests that need no cluster. `scripts/check_manifests.py` is the program."""
