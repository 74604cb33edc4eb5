#define EQK_TARGET avx512
#define EQK_VECTOR_BYTES 64
#include "linear.inl"
