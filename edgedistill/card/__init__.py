"""The model card of a run, and its replay on another day or device."""
