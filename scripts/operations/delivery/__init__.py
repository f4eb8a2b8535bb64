"""From the source to a serving release, and back to the one before."""
