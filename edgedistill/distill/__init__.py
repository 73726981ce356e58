"""Distillation: losses, soft labels, the training loop, and the teacher and student stages."""
