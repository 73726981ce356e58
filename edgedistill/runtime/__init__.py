"""Services for all stages: files, the run folder, progress, processes of a launch, and user code."""
