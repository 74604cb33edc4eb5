// Channels of x and y, coupled: a few rows are the lanes of vectors, so that every mode has the same loops.
//
// A number of a block is BLOCK<T> rows of it, one beside the other. For a run of channels l with the scalar s
//   M_ak = sum_b C_abk s_b,   A_k[c] += sum_a M_ak l_a[c]
// and backward with the gradient dA
//   dl_a[c] += sum_k M_ak dA_k[c],   dM_ak = sum_c l_a[c] dA_k[c],   ds_b += sum_ak C_abk dM_ak
#pragma once

#include "../program/coupling.hpp"
#include "matrix.inl"
#include "tiles.inl"

namespace eqk {
namespace EQK_TARGET {

template <class T>
constexpr int64_t BLOCK = TILE_VECTORS * lanes<T>;
template <class T>
using Wide = Tile<T, lanes<T>, TILE_VECTORS>;

// A segment in a block: values and gradients (or null), and how far apart channels and components are.
template <class T>
struct Side {
    const T* v;
    T* d;
    int64_t channel, component;
};

// What `count` rows of numbers, `row` apart, are as lanes, `step` apart; lanes beyond the rows are zero.
template <class T>
void rows_to_lanes(int64_t rows, const T* from, int64_t row, int64_t count, T* to, int64_t step) {
    constexpr int64_t L = lanes<T>;
    for (int64_t r = 0; r < BLOCK<T>; r += L, from += L * row, to += L) {
        int64_t c = 0;
        if (r + L <= rows && count >= L)
            for (; c < count; c += L) {
                c = std::min(c, count - L);
                turn(from + c, row, L, to + c * step, step);
            }
        for (; c < count; ++c)
            for (int64_t l = 0; l < L; ++l) to[c * step + l] = r + l < rows ? from[l * row + c] : T(0);
    }
}

template <class T>
void lanes_to_rows(int64_t rows, const T* from, int64_t step, int64_t count, T* to, int64_t row) {
    constexpr int64_t L = lanes<T>;
    for (int64_t r = 0; r < rows; r += L, from += L, to += L * row) {
        int64_t c = 0;
        if (r + L <= rows && count >= L)
            for (; c < count; c += L) {
                c = std::min(c, count - L);
                turn(from + c * step, step, L, to + c, row);
            }
        for (; c < count; ++c)
            for (int64_t l = 0; l < std::min(L, rows - r); ++l) to[l * row + c] = from[c * step + l];
    }
}

// M for `count` channels of the scalar, `m_channel` apart.
template <class T>
void make_factors(const CoupledPath& p, int64_t count, const T* scalar, int64_t channel, int64_t component, T* m,
                  int64_t m_channel) {
    int last = -1;
    for (const Source& s : p.sources) {
        const T* from = scalar + s.b * component;
        T* to = m + s.m * BLOCK<T>;
        for (int64_t c = 0; c < count; ++c, from += channel, to += m_channel) {
            Wide<T> sum = s.m == last ? Wide<T>::at(to) : Wide<T>::zero();
            sum.add(static_cast<T>(s.c), Wide<T>::at(from));
            sum.put(to);
        }
        last = s.m;
    }
}

// to[c] = sum of N steps from[c], or added, for `count` channels; M moves with the channels, or is one for all.
template <class T, int N, bool Moves>
EQK_INLINE void add_steps(const Step* steps, const T* m, int64_t m_channel, int64_t count, const T* from,
                          int64_t component, int64_t channel, bool add, T* to, int64_t to_channel) {
    Wide<T> factor[N];
    const T *at[N], *factors[N];
    for (int n = 0; n < N; ++n) {
        factors[n] = m + steps[n].m * BLOCK<T>;
        factor[n] = Wide<T>::at(factors[n]);
        at[n] = from + steps[n].from * component;
    }
    for (int64_t c = 0; c < count; ++c, to += to_channel) {
        Wide<T> sum = Wide<T>::zero();
        for (int n = 0; n < N; ++n)
            sum.add(Moves ? Wide<T>::at(factors[n] + c * m_channel) : factor[n], Wide<T>::at(at[n] + c * channel));
        if (add) sum.add(T(1), Wide<T>::at(to));
        sum.put(to);
    }
}

// f(integral constant N, first) for steps [first, first + N) of all.
template <class F>
EQK_INLINE void by_steps(size_t all, F&& f) {
    size_t n = 0;
    for (; n + 4 <= all; n += 4) f(std::integral_constant<int, 4>{}, n);
    if (all - n == 3) f(std::integral_constant<int, 3>{}, n);
    if (all - n == 2) f(std::integral_constant<int, 2>{}, n);
    if (all - n == 1) f(std::integral_constant<int, 1>{}, n);
}

template <class T>
void add_sum(const StepSum& sum, const T* m, int64_t m_channel, int64_t count, const T* from, int64_t component,
             int64_t channel, bool add, T* to, int64_t to_channel) {
    if (!add && sum.steps.empty())
        for (int64_t c = 0; c < count; ++c) Wide<T>::zero().put(to + c * to_channel);
    by_steps(sum.steps.size(), [&](auto n, size_t first) {
        const Step* const steps = sum.steps.data() + first;
        if (m_channel)
            add_steps<T, n, true>(steps, m, m_channel, count, from, component, channel, add || first, to, to_channel);
        else
            add_steps<T, n, false>(steps, m, 0, count, from, component, channel, add || first, to, to_channel);
    });
}

// dM of the steps of a sum, over `count` channels or of each of them.
template <class T>
void dot_sum(const StepSum& sum, int64_t count, const T* lane, int64_t component, int64_t channel, const T* da,
             int64_t da_channel, T* dm, int64_t m_channel) {
    by_steps(sum.steps.size(), [&](auto steps, size_t first) {
        constexpr int N = steps;
        const Step* const step = sum.steps.data() + first;
        Wide<T> total[N];
        const T* at[N];
        for (int n = 0; n < N; ++n) total[n] = Wide<T>::zero(), at[n] = lane + step[n].from * component;
        const T* d = da;
        for (int64_t c = 0; c < count; ++c, d += da_channel) {
            const Wide<T> factor = Wide<T>::at(d);
            for (int n = 0; n < N; ++n) {
                const Wide<T> with = Wide<T>::at(at[n] + c * channel);
                if (m_channel)
                    (factor * with).put(dm + c * m_channel + step[n].m * BLOCK<T>);
                else
                    total[n].add(factor, with);
            }
        }
        for (int n = 0; n < N && !m_channel; ++n) total[n].put(dm + step[n].m * BLOCK<T>);
    });
}

// What a piece's loops work on: a path's scalars and lanes, and room for M and dM.
template <class T>
struct Coupler {
    const CoupledPath& path;
    Side<T> scalar, lane;
    T* m;
    int64_t dim() const { return path.there.size(); }
    // How far apart the factors of channels are, and how many channels of the scalar a run has.
    int64_t m_channel() const { return path.equal ? path.factors * BLOCK<T> : 0; }
    int64_t scalars(const Run& run) const { return path.equal ? run.count : 1; }
    T* dm() const { return m + path.factors * BLOCK<T> * (path.equal ? EQUALS : 1); }

    void factors(const Run& run) const {
        make_factors(path, scalars(run), scalar.v + run.scalar * scalar.channel, scalar.channel, scalar.component, m,
                     m_channel());
    }

    // A (channels, components) of a piece, or added.
    void forward(const Piece& piece, bool add, T* a) const {
        const int64_t step = dim() * BLOCK<T>;
        for (const Run& run : piece.runs) {
            factors(run);
            for (const StepSum& sum : path.there)
                add_sum(sum, m, m_channel(), run.count, lane.v + run.lane * lane.channel, lane.component, lane.channel,
                        add, a + run.at * step + sum.to * BLOCK<T>, run.step * step);
        }
    }

    // What dA gives to the gradients of both sides.
    void backward(const Piece& piece, const T* da) const {
        for (const Run& run : piece.runs) {
            if (lane.d && scalar.v) lane_gradient(run, da);
            if (scalar.d && lane.v) scalar_gradient(run, da);
        }
    }

   private:
    void lane_gradient(const Run& run, const T* da) const {
        const int64_t step = dim() * BLOCK<T>;
        factors(run);
        for (const StepSum& sum : path.back)
            add_sum(sum, m, m_channel(), run.count, da + run.at * step, BLOCK<T>, run.step * step, true,
                    lane.d + run.lane * lane.channel + sum.to * lane.component, lane.channel);
    }

    void scalar_gradient(const Run& run, const T* da) const {
        const int64_t step = dim() * BLOCK<T>;
        for (const StepSum& sum : path.there)
            dot_sum(sum, run.count, lane.v + run.lane * lane.channel, lane.component, lane.channel,
                    da + run.at * step + sum.to * BLOCK<T>, run.step * step, dm(), m_channel());
        for (const Source& s : path.sources) {
            T* to = scalar.d + run.scalar * scalar.channel + s.b * scalar.component;
            const T* from = dm() + s.m * BLOCK<T>;
            for (int64_t c = 0; c < scalars(run); ++c, to += scalar.channel, from += m_channel()) {
                Wide<T> total = Wide<T>::at(to);
                total.add(static_cast<T>(s.c), Wide<T>::at(from));
                total.put(to);
            }
        }
    }
};

}  // namespace EQK_TARGET
}  // namespace eqk
