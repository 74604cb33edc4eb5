#define EQK_TARGET avx512
#define EQK_VECTOR_BYTES 64
#include "contract.inl"
#include "gate.inl"
#include "harmonics.inl"
#include "modes.inl"
#include "spline.inl"
#include "symmetric.inl"
