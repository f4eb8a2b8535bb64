"""What `scripts/cluster` does, one module for each part. Standard library alone."""
