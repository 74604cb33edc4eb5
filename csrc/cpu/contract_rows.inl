// Rows between the order outside (e3nn's columns) and inside (components outermost, channels padded to the vector
// length).
#include <algorithm>

#include "buffer.hpp"
#include "contract.hpp"
#include "vector.hpp"

namespace eqk {
namespace EQK_TARGET {

template <class T, int D>
EQK_INLINE void split_channels(const T* from, T* to, int64_t mul, int64_t padded) {
    for (int64_t u = 0; u < mul; ++u)
        for (int i = 0; i < D; ++i) to[i * padded + u] = from[u * D + i];
}

template <class T, int D>
EQK_INLINE void join_channels(const T* from, T* to, int64_t mul, int64_t padded) {
    for (int64_t u = 0; u < mul; ++u)
        for (int i = 0; i < D; ++i) to[u * D + i] = from[i * padded + u];
}

// One row inwards; padding becomes zero.
template <class T>
void to_inside(const std::vector<Placed>& segments, bool mul_ir, const T* from, T* to) {
    for (const Placed& s : segments) {
        const T* f = from + s.outside;
        T* t = to + s.inside;
        if (!mul_ir || s.dim == 1)
            for (int64_t i = 0; i < s.dim; ++i) std::copy_n(f + i * s.mul, s.mul, t + i * s.padded);
        else if (s.dim == 3)
            split_channels<T, 3>(f, t, s.mul, s.padded);
        else if (s.dim == 5)
            split_channels<T, 5>(f, t, s.mul, s.padded);
        else if (s.dim == 7)
            split_channels<T, 7>(f, t, s.mul, s.padded);
        else
            for (int64_t i = 0; i < s.dim; ++i)
                for (int64_t u = 0; u < s.mul; ++u) t[i * s.padded + u] = f[u * s.dim + i];
        if (s.padded != s.mul)
            for (int64_t i = 0; i < s.dim; ++i) std::fill_n(t + i * s.padded + s.mul, s.padded - s.mul, T(0));
    }
}

// One row outwards.
template <class T>
void to_outside(const std::vector<Placed>& segments, bool mul_ir, const T* from, T* to) {
    for (const Placed& s : segments) {
        const T* f = from + s.inside;
        T* t = to + s.outside;
        if (!mul_ir || s.dim == 1)
            for (int64_t i = 0; i < s.dim; ++i) std::copy_n(f + i * s.padded, s.mul, t + i * s.mul);
        else if (s.dim == 3)
            join_channels<T, 3>(f, t, s.mul, s.padded);
        else if (s.dim == 5)
            join_channels<T, 5>(f, t, s.mul, s.padded);
        else if (s.dim == 7)
            join_channels<T, 7>(f, t, s.mul, s.padded);
        else
            for (int64_t i = 0; i < s.dim; ++i)
                for (int64_t u = 0; u < s.mul; ++u) t[u * s.dim + i] = f[i * s.padded + u];
    }
}

// out[row] = sum of c * in[column], for EDGES edges side by side.
template <class T>
void apply(const Sparse& sparse, const T* in, T* out) {
    const int rows = static_cast<int>(sparse.start.size()) - 1;
    for (int r = 0; r < rows; ++r) {
        T acc[EDGES] = {};
        for (int n = sparse.start[r]; n < sparse.start[r + 1]; ++n) {
            const T c = sparse.entries[n].c<T>();
            const T* column = in + static_cast<int64_t>(sparse.entries[n].column) * EDGES;
            for (int e = 0; e < EDGES; ++e) acc[e] += c * column[e];
        }
        for (int e = 0; e < EDGES; ++e) out[static_cast<int64_t>(r) * EDGES + e] = acc[e];
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
