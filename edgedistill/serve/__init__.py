"""A run's models on a page: any phone's browser runs them, and its figures join the run."""
