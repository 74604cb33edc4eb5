"""Rotations as angles, matrices, quaternions and axis-angle: names, arguments and values of e3nn.

Angles (alpha, beta, gamma) stand for R_y(alpha) R_x(beta) R_y(gamma): gamma is applied first. Quaternions are
(real, x, y, z). All functions broadcast over leading dimensions. Random rotations are uniform (Haar).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from equikern.errors import ProgramError

Angles = tuple[Tensor, Tensor, Tensor]
Dtype = torch.dtype | None


# angles


def identity_angles(*shape: int, requires_grad: bool = False, dtype: Dtype = None, device: Any = None) -> Angles:
    """Three tensors of zeros of the given shape."""
    alpha, beta, gamma = (torch.zeros(shape, dtype=dtype, device=device, requires_grad=requires_grad) for _ in range(3))
    return alpha, beta, gamma


def rand_angles(*shape: int, requires_grad: bool = False, dtype: Dtype = None, device: Any = None) -> Angles:
    """Angles, each of the given shape, of random rotations."""
    alpha, gamma = 2 * math.pi * torch.rand(2, *shape, dtype=dtype, device=device)
    beta = torch.acos(2 * torch.rand(shape, dtype=dtype, device=device) - 1)
    alpha, beta, gamma = (angle.clone().requires_grad_(requires_grad) for angle in (alpha, beta, gamma))
    return alpha, beta, gamma


def compose_angles(a1: Tensor, b1: Tensor, c1: Tensor, a2: Tensor, b2: Tensor, c2: Tensor) -> Angles:
    """Angles of R(a1, b1, c1) R(a2, b2, c2)."""
    return matrix_to_angles(angles_to_matrix(a1, b1, c1) @ angles_to_matrix(a2, b2, c2))


def inverse_angles(a: Tensor, b: Tensor, c: Tensor) -> Angles:
    """Angles of the inverse rotation."""
    return -c, -b, -a


# quaternions


def identity_quaternion(*shape: int, requires_grad: bool = False, dtype: Dtype = None, device: Any = None) -> Tensor:
    """(*shape, 4): 1, 0, 0, 0."""
    q = torch.zeros(*shape, 4, dtype=dtype, device=device)
    q[..., 0] = 1
    return q.requires_grad_(requires_grad)


def rand_quaternion(*shape: int, requires_grad: bool = False, dtype: Dtype = None, device: Any = None) -> Tensor:
    """(*shape, 4), quaternions of random rotations."""
    return angles_to_quaternion(*rand_angles(*shape, dtype=dtype, device=device)).requires_grad_(requires_grad)


def compose_quaternion(q1: Tensor, q2: Tensor) -> Tensor:
    """The product q1 q2 (..., 4): q2 is applied first."""
    (a, u), (b, v) = ((q[..., :1], q[..., 1:]) for q in torch.broadcast_tensors(q1, q2))
    real = a * b - (u * v).sum(-1, keepdim=True)
    return torch.cat([real, a * v + b * u + torch.linalg.cross(u, v)], dim=-1)


def inverse_quaternion(q: Tensor) -> Tensor:
    """The conjugate (..., 4), the inverse of a unit quaternion."""
    return q * q.new_tensor([1.0, -1.0, -1.0, -1.0])


# axis and angle


def rand_axis_angle(
    *shape: int, requires_grad: bool = False, dtype: Dtype = None, device: Any = None
) -> tuple[Tensor, Tensor]:
    """Axes (*shape, 3) and angles (*shape) of random rotations."""
    axis, angle = angles_to_axis_angle(*rand_angles(*shape, dtype=dtype, device=device))
    return axis.requires_grad_(requires_grad), angle.requires_grad_(requires_grad)


def compose_axis_angle(axis1: Tensor, angle1: Tensor, axis2: Tensor, angle2: Tensor) -> tuple[Tensor, Tensor]:
    """Axis (..., 3) and angle (...) of the rotation 2, then 1."""
    first, second = axis_angle_to_quaternion(axis1, angle1), axis_angle_to_quaternion(axis2, angle2)
    return quaternion_to_axis_angle(compose_quaternion(first, second))


# matrices


def rand_matrix(*shape: int, requires_grad: bool = False, dtype: Dtype = None, device: Any = None) -> Tensor:
    """(*shape, 3, 3), random rotation matrices."""
    return angles_to_matrix(*rand_angles(*shape, dtype=dtype, device=device)).requires_grad_(requires_grad)


def _about(axis: int, angle: Tensor) -> Tensor:
    """(..., 3, 3): the plane of the two axes that follow `axis` cyclically turns by `angle`; `axis` stays."""
    cos, sin, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    cells = {(0, 0): one, (1, 1): cos, (2, 2): cos, (1, 2): -sin, (2, 1): sin}
    flat = [cells.get(((i - axis) % 3, (j - axis) % 3), zero) for i in range(3) for j in range(3)]
    return torch.stack(flat, dim=-1).unflatten(-1, (3, 3))


def matrix_x(angle: Tensor) -> Tensor:
    """Rotation about x: (...) to (..., 3, 3)."""
    return _about(0, angle)


def matrix_y(angle: Tensor) -> Tensor:
    """Rotation about y: (...) to (..., 3, 3)."""
    return _about(1, angle)


def matrix_z(angle: Tensor) -> Tensor:
    """Rotation about z: (...) to (..., 3, 3)."""
    return _about(2, angle)


def _check_rotation(R: Tensor) -> None:
    if R.shape[-2:] != (3, 3):
        raise ProgramError(f"a rotation matrix has shape (..., 3, 3); got {tuple(R.shape)}.")
    determinant = torch.det(R)
    if not torch.allclose(determinant, torch.ones_like(determinant)):
        raise ProgramError("a rotation matrix has determinant 1; for an improper one use -R and the parity.")


# conversions


def angles_to_matrix(alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """(..., 3, 3): R_y(alpha) R_x(beta) R_y(gamma)."""
    alpha, beta, gamma = torch.broadcast_tensors(alpha, beta, gamma)
    return matrix_y(alpha) @ matrix_x(beta) @ matrix_y(gamma)


def matrix_to_angles(R: Tensor) -> Angles:
    """Angles of rotation matrices (..., 3, 3). Raises ProgramError where a determinant is not 1."""
    _check_rotation(R)
    alpha, beta = xyz_to_angles(R[..., :, 1])
    rest = angles_to_matrix(alpha, beta, torch.zeros_like(alpha)).mT @ R
    return alpha, beta, torch.atan2(rest[..., 0, 2], rest[..., 0, 0])


def angles_to_quaternion(alpha: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    """(..., 4) of angles (...)."""
    alpha, beta, gamma = torch.broadcast_tensors(alpha, beta, gamma)
    x, y = alpha.new_tensor([1.0, 0.0, 0.0]), alpha.new_tensor([0.0, 1.0, 0.0])
    last = compose_quaternion(axis_angle_to_quaternion(x, beta), axis_angle_to_quaternion(y, gamma))
    return compose_quaternion(axis_angle_to_quaternion(y, alpha), last)


def matrix_to_quaternion(R: Tensor) -> Tensor:
    """(..., 4) of rotation matrices (..., 3, 3)."""
    return axis_angle_to_quaternion(*matrix_to_axis_angle(R))


def axis_angle_to_quaternion(xyz: Tensor, angle: Tensor) -> Tensor:
    """(..., 4) of axes (..., 3), of any length, and angles (...)."""
    xyz, angle = torch.broadcast_tensors(xyz, angle[..., None])
    return torch.cat([torch.cos(angle[..., :1] / 2), normalize(xyz, dim=-1) * torch.sin(angle / 2)], dim=-1)


def quaternion_to_axis_angle(q: Tensor) -> tuple[Tensor, Tensor]:
    """Unit axes (..., 3) and angles (...) in [0, 2 pi] of unit quaternions (..., 4)."""
    return normalize(q[..., 1:], dim=-1), 2 * torch.acos(q[..., 0].clamp(-1, 1))


def matrix_to_axis_angle(R: Tensor) -> tuple[Tensor, Tensor]:
    """Unit axes (..., 3) and angles (...) in [0, pi] of rotation matrices (..., 3, 3).

    The axis is that of the antisymmetric part, so it is lost (zero) for a half turn, as in e3nn.
    """
    _check_rotation(R)
    trace = R.diagonal(dim1=-2, dim2=-1).sum(-1)
    anti = R - R.mT
    axis = torch.stack([anti[..., 2, 1], anti[..., 0, 2], anti[..., 1, 0]], dim=-1)
    return normalize(axis, dim=-1), torch.acos(((trace - 1) / 2).clamp(-1, 1))


def angles_to_axis_angle(alpha: Tensor, beta: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
    """Unit axes (..., 3) and angles (...) in [0, pi] of angles (...)."""
    return matrix_to_axis_angle(angles_to_matrix(alpha, beta, gamma))


def axis_angle_to_matrix(axis: Tensor, angle: Tensor) -> Tensor:
    """(..., 3, 3) of axes (..., 3), of any length, and angles (...)."""
    axis, angle = torch.broadcast_tensors(axis, angle[..., None])
    alpha, beta = xyz_to_angles(axis)
    to_axis = angles_to_matrix(alpha, beta, torch.zeros_like(beta))
    return to_axis @ matrix_y(angle[..., 0]) @ to_axis.mT


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """(..., 3, 3) of unit quaternions (..., 4)."""
    return axis_angle_to_matrix(*quaternion_to_axis_angle(q))


def quaternion_to_angles(q: Tensor) -> Angles:
    """Angles of unit quaternions (..., 4)."""
    return matrix_to_angles(quaternion_to_matrix(q))


def axis_angle_to_angles(axis: Tensor, angle: Tensor) -> Angles:
    """Angles of axes (..., 3), of any length, and angles (...)."""
    return matrix_to_angles(axis_angle_to_matrix(axis, angle))


# points on the sphere


def angles_to_xyz(alpha: Tensor, beta: Tensor) -> Tensor:
    """(..., 3): the point R_y(alpha) R_x(beta) e_y of the unit sphere."""
    alpha, beta = torch.broadcast_tensors(alpha, beta)
    sin = torch.sin(beta)
    return torch.stack([sin * torch.sin(alpha), torch.cos(beta), sin * torch.cos(alpha)], dim=-1)


def xyz_to_angles(xyz: Tensor) -> tuple[Tensor, Tensor]:
    """alpha, beta (...) of directions (..., 3); a zero vector gives 0 and pi/2, as in e3nn."""
    x, y, z = normalize(xyz, dim=-1).clamp(-1, 1).unbind(-1)
    return torch.atan2(x, z), torch.acos(y)
