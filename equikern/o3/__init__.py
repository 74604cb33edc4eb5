"""e3nn's names, arguments, weight order and values over equikern's kernels."""

from equikern.o3._irreps import Irrep, Irreps
from equikern.o3._linear import Linear
from equikern.o3._rotation import (
    angles_to_axis_angle,
    angles_to_matrix,
    angles_to_quaternion,
    angles_to_xyz,
    axis_angle_to_angles,
    axis_angle_to_matrix,
    axis_angle_to_quaternion,
    compose_angles,
    compose_axis_angle,
    compose_quaternion,
    identity_angles,
    identity_quaternion,
    inverse_angles,
    inverse_quaternion,
    matrix_to_angles,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    matrix_x,
    matrix_y,
    matrix_z,
    quaternion_to_angles,
    quaternion_to_axis_angle,
    quaternion_to_matrix,
    rand_angles,
    rand_axis_angle,
    rand_matrix,
    rand_quaternion,
    xyz_to_angles,
)
from equikern.o3._spherical_harmonics import SphericalHarmonics, spherical_harmonics
from equikern.o3._tensor_product import Instruction, TensorProduct
from equikern.o3._tensor_product_sub import (
    ElementwiseTensorProduct,
    FullTensorProduct,
    FullyConnectedTensorProduct,
    TensorSquare,
)
from equikern.o3._wigner import change_basis_real_to_complex, so3_generators, su2_generators, wigner_3j, wigner_D

__all__ = [
    "Irrep", "Irreps", "Instruction", "TensorProduct", "FullyConnectedTensorProduct", "ElementwiseTensorProduct",
    "FullTensorProduct", "TensorSquare", "Linear", "SphericalHarmonics", "spherical_harmonics",
    "wigner_3j", "wigner_D", "change_basis_real_to_complex", "su2_generators", "so3_generators",
    "rand_matrix", "identity_angles", "rand_angles", "compose_angles", "inverse_angles",
    "identity_quaternion", "rand_quaternion", "compose_quaternion", "inverse_quaternion",
    "rand_axis_angle", "compose_axis_angle", "matrix_x", "matrix_y", "matrix_z",
    "angles_to_matrix", "matrix_to_angles", "angles_to_quaternion", "matrix_to_quaternion", "axis_angle_to_quaternion",
    "quaternion_to_axis_angle", "matrix_to_axis_angle", "angles_to_axis_angle", "axis_angle_to_matrix",
    "quaternion_to_matrix", "quaternion_to_angles", "axis_angle_to_angles", "angles_to_xyz", "xyz_to_angles",
]  # fmt: skip
