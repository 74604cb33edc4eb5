#define EQK_TARGET base
#define EQK_VECTOR_BYTES 16
#include "linear.inl"
