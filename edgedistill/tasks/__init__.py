"""The tasks of models, such as classification: one file per task."""
