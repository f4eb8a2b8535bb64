"""Generated scenes with round objects: what the scores of the model `circles` are fitted on, and what its tests use."""
