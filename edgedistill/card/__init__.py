"""The model card of a run, and its replay on another device."""
