#define EQK_TARGET avx2
#define EQK_VECTOR_BYTES 32
#include "contract.inl"
#include "gate.inl"
#include "harmonics.inl"
#include "modes.inl"
#include "spline.inl"
#include "symmetric.inl"
