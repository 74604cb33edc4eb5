#define EQK_TARGET base
#define EQK_VECTOR_BYTES 16
#include "contract.inl"
#include "gate.inl"
#include "harmonics.inl"
#include "modes.inl"
#include "spline.inl"
#include "symmetric.inl"
