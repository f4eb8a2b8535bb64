"""What can be known of the manifests without a cluster. `scripts/check_manifests.py` is the program."""
