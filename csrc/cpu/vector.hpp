// Vectors of EQK_VECTOR_BYTES bytes, by the compiler's vector extensions.
#pragma once

#include <cstdint>
#include <cstring>

namespace eqk {
namespace EQK_TARGET {

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(EQK_VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(EQK_VECTOR_BYTES), aligned(8), may_alias));
};

template <class T>
using Vec = typename VectorOf<T>::type;

template <class T>
constexpr int lanes = EQK_VECTOR_BYTES / sizeof(T);

#define EQK_INLINE static inline __attribute__((always_inline))

template <class T>
EQK_INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const Vec<T>*>(p);
}

template <class T>
EQK_INLINE void store(T* p, Vec<T> v) {
    *reinterpret_cast<Vec<T>*>(p) = v;
}

template <class T>
EQK_INLINE T sum(Vec<T> v) {
    T lane[lanes<T>];
    std::memcpy(lane, &v, sizeof v);
    for (int half = lanes<T> / 2; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
    return lane[0];
}

}  // namespace EQK_TARGET
}  // namespace eqk
