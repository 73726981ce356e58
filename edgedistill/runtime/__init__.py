"""What every stage needs around it: files, the run folder, progress, the processes of a launch, user code."""
