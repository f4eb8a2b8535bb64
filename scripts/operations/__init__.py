"""The commands of `scripts/cluster`, one module for each part. PyYAML is all that it needs besides Python."""
