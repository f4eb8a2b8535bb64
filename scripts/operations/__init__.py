"""The commands of `scripts/cluster`, one module for each part. They need only Python and PyYAML."""
