"""Looking at what runs, and using it."""
