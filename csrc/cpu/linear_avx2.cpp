#define EQK_TARGET avx2
#define EQK_VECTOR_BYTES 32
#include "linear.inl"
