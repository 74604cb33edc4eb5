// Segments of rows between the order outside and components outermost, without padding. Comes after contract.inl: it
// shares the turns of contract_rows.inl.
#include "buffer.hpp"
#include "modes.hpp"

namespace eqk {
namespace EQK_TARGET {

template <class T>
EQK_INLINE void split_segment(int64_t mul, int64_t dim, const T* from, T* to) {
    if (dim == 1 || mul == 1)
        std::copy_n(from, mul * dim, to);
    else if (dim == 3)
        split_channels<T, 3>(from, to, mul, mul);
    else if (dim == 5)
        split_channels<T, 5>(from, to, mul, mul);
    else if (dim == 7)
        split_channels<T, 7>(from, to, mul, mul);
    else
        for (int64_t i = 0; i < dim; ++i)
            for (int64_t u = 0; u < mul; ++u) to[i * mul + u] = from[u * dim + i];
}

template <class T>
EQK_INLINE void join_segment(int64_t mul, int64_t dim, const T* from, T* to) {
    if (dim == 1 || mul == 1)
        std::copy_n(from, mul * dim, to);
    else if (dim == 3)
        join_channels<T, 3>(from, to, mul, mul);
    else if (dim == 5)
        join_channels<T, 5>(from, to, mul, mul);
    else if (dim == 7)
        join_channels<T, 7>(from, to, mul, mul);
    else
        for (int64_t i = 0; i < dim; ++i)
            for (int64_t u = 0; u < mul; ++u) to[u * dim + i] = from[i * mul + u];
}

template <class T>
void turn_rows(const TurnArgs<T>& a) {
    const int threads = a.rows * a.mul * a.dim < 65536 ? 1 : a.threads;
    const int64_t width = a.mul * a.dim;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const Buffer<T> scratch(a.add ? width : 0);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < a.rows; ++row) {
            const T* const from = a.from + row * a.from_stride;
            T* const to = a.to + row * a.to_stride;
            T* const first = a.add ? scratch.data() : to;
            if (!a.turn)
                std::copy_n(from, width, first);
            else if (a.split)
                split_segment(a.mul, a.dim, from, first);
            else
                join_segment(a.mul, a.dim, from, first);
            if (a.add)
                for (int64_t c = 0; c < width; ++c) to[c] += first[c];
        }
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
