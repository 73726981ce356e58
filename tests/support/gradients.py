"""Values and gradients of losses in float64, and differences of a definition in numpy."""

from collections.abc import Callable

import numpy as np
import torch

Array = np.ndarray


def torched(*arrays: Array) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


def value(loss: Callable[..., torch.Tensor], student: Array, teacher: Array, *rest: object) -> float:
    return float(loss(*torched(student, teacher), *rest))


def gradient(loss: Callable[..., torch.Tensor], student: Array, teacher: Array, *rest: object) -> Array:
    x, y = torched(student, teacher)
    loss(x.requires_grad_(), y, *rest).backward()
    assert x.grad is not None
    return x.grad.numpy()


def differences(reference: Callable[[Array], float], student: Array) -> Array:
    """Central differences of a reference in float64."""
    found, step = np.zeros(student.size), 1e-5
    for i in range(student.size):
        offset = np.zeros(student.size)
        offset[i] = step
        offset = offset.reshape(student.shape)
        found[i] = (reference(student + offset) - reference(student - offset)) / (2 * step)
    return found.reshape(student.shape)
