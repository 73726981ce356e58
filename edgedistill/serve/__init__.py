"""Serve the models of a run to browsers, and add the browsers' measurements to the run."""
