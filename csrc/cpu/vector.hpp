// Vectors of EQK_VECTOR_BYTES bytes, by the compiler's vector extensions.
#pragma once

#include <cstdint>
#include <utility>

#if EQK_VECTOR_BYTES >= 32
#include <immintrin.h>
#endif

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

template <class T>
constexpr int64_t line = 64 / sizeof(T);  // numbers of a cache line

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
EQK_INLINE Vec<T> spread(T x) {
    return Vec<T>{} + x;
}

// Store past the caches, to an aligned address: the old line is not read first. `drain` comes before others read it.
template <class T>
EQK_INLINE void stream(T* p, Vec<T> v) {
#if EQK_VECTOR_BYTES == 64
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)v);
#elif EQK_VECTOR_BYTES == 32
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)v);
#else
    store<T>(p, v);
#endif
}

static inline void drain() {
#if EQK_VECTOR_BYTES >= 32
    _mm_sfence();
#endif
}

// Whether every lane of a comparison holds.
template <class Mask>
EQK_INLINE bool all(Mask mask) {
#if EQK_VECTOR_BYTES == 64
    return _mm512_movepi32_mask((__m512i)mask) == 0xffff;
#elif EQK_VECTOR_BYTES == 32
    return _mm256_movemask_ps((__m256)mask) == 0xff;
#else
    bool every = true;
    for (unsigned n = 0; n < sizeof(Mask) / sizeof(mask[0]); ++n) every = every && mask[n];
    return every;
#endif
}

// The compiler is not to know where a pointer comes from: it would keep every offset in a register of its own.
template <class T>
EQK_INLINE void hide(T*& p) {
    asm("" : "+r"(p));
}

// The compiler is to load a vector once, not anew for each use.
template <class V>
EQK_INLINE void once(V& v) {
#if EQK_VECTOR_BYTES >= 32
    asm("" : "+x"(v));
#endif
}

// Lane I of the result: a[I] + a[I ^ S] where bit S of I is clear, b[I] + b[I ^ S] where it is set.
template <class T, int S, int... I>
EQK_INLINE Vec<T> merge(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
    constexpr int L = lanes<T>;
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (I & S ? L + I : I)...) +
           __builtin_shufflevector(a, b, (I & S ? L + (I ^ S) : I ^ S)...);
#else
    using Mask = decltype(a < b);
    constexpr Mask same = {(I & S ? L + I : I)...}, other = {(I & S ? L + (I ^ S) : I ^ S)...};
    return __builtin_shuffle(a, b, same) + __builtin_shuffle(a, b, other);
#endif
}

// The sums of the lanes of `count` vectors (at most as many as lanes; v is overwritten): sum n is lane reversed<T>(n).
template <class T, int S = lanes<T> / 2>
EQK_INLINE Vec<T> sums(Vec<T>* v, int count) {
    constexpr auto all = std::make_integer_sequence<int, lanes<T>>{};
    const int half = (count + 1) / 2;
#pragma GCC unroll 8
    for (int n = 0; n < half; ++n) v[n] = merge<T, S>(v[2 * n], v[2 * n + 1 < count ? 2 * n + 1 : 2 * n], all);
    if constexpr (S > 1)
        return sums<T, S / 2>(v, half);
    else
        return v[0];
}

// The lane of sum n in the result of `sums`: its bits in reverse.
template <class T>
constexpr int reversed(int n) {
    int lane = 0;
    for (int s = lanes<T> / 2; s > 0; s /= 2, n /= 2) lane += n % 2 * s;
    return lane;
}

template <class T>
EQK_INLINE T sum(Vec<T> v) {
    return sums<T>(&v, 1)[0];
}

}  // namespace EQK_TARGET
}  // namespace eqk
