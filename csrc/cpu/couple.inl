// Channels of x and y, coupled: a few rows are the lanes of vectors, so that every mode has the same loops.
//
// A number of a block is BLOCK<T> rows of it, one beside the other. For a run of channels l with the scalar s
//   M_ak = sum_b C_abk s_b,   A_k[c] += sum_a M_ak l_a[c]
// and backward with the gradient dA
//   dl_a[c] += sum_k M_ak dA_k[c],   dM_ak = sum_c l_a[c] dA_k[c],   ds_b += sum_ak C_abk dM_ak
// Equal channels have no scalar in common, and no M: A_k[c] += sum_ab C_abk s_b[c] l_a[c].
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

// Numbers of a block by component and channel.
template <class T>
struct Numbers {
    const T* p;
    int64_t component, channel;
};

// M of a channel of the scalar.
template <class T>
void make_factors(const CoupledPath& p, const T* scalar, int64_t component, T* m) {
    int last = -1;
    for (const Source& s : p.sources) {
        T* const to = m + s.m * BLOCK<T>;
        Wide<T> sum = s.m == last ? Wide<T>::at(to) : Wide<T>::zero();
        sum.add(static_cast<T>(s.c), Wide<T>::at(scalar + s.b * component));
        sum.put(to);
        last = s.m;
    }
}

// to[c] = sum of N steps from[c], or added, for `count` channels; m is M, one for all, or of equal channels.
template <class T, int N, bool Equal>
EQK_INLINE void add_steps(const Step* steps, Numbers<T> m, int64_t count, Numbers<T> from, bool add, T* to,
                          int64_t to_channel) {
    Wide<T> factor[N];
    const T *at[N], *factors[N];
    T c[N];
    for (int n = 0; n < N; ++n) {
        c[n] = static_cast<T>(steps[n].c);
        factors[n] = m.p + steps[n].m * m.component;
        factor[n] = Wide<T>::at(factors[n]);
        at[n] = from.p + steps[n].from * from.component;
    }
    for (int64_t u = 0; u < count; ++u, to += to_channel) {
        Wide<T> sum = Wide<T>::zero();
        for (int n = 0; n < N; ++n) {
            const Wide<T> number = Wide<T>::at(at[n] + u * from.channel);
            if (Equal)
                sum.add(c[n], Wide<T>::at(factors[n] + u * m.channel) * number);
            else
                sum.add(factor[n], number);
        }
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
void add_sum(const StepSum& sum, bool equal, Numbers<T> m, int64_t count, Numbers<T> from, bool add, T* to,
             int64_t to_channel) {
    if (!add && sum.steps.empty())
        for (int64_t c = 0; c < count; ++c) Wide<T>::zero().put(to + c * to_channel);
    by_steps(sum.steps.size(), [=, &sum](auto n, size_t first) {
        const Step* const steps = sum.steps.data() + first;
        if (equal)
            add_steps<T, n, true>(steps, m, count, from, add || first, to, to_channel);
        else
            add_steps<T, n, false>(steps, m, count, from, add || first, to, to_channel);
    });
}

// dM of the steps of a sum.
template <class T>
void dot_sum(const StepSum& sum, int64_t count, Numbers<T> lane, const T* da, int64_t da_channel, T* dm) {
    by_steps(sum.steps.size(), [=, &sum](auto steps, size_t first) {
        constexpr int N = steps;
        const Step* const step = sum.steps.data() + first;
        Wide<T> total[N];
        const T* at[N];
        for (int n = 0; n < N; ++n) total[n] = Wide<T>::zero(), at[n] = lane.p + step[n].from * lane.component;
        const T* d = da;
        for (int64_t c = 0; c < count; ++c, d += da_channel) {
            const Wide<T> factor = Wide<T>::at(d);
            for (int n = 0; n < N; ++n) total[n].add(factor, Wide<T>::at(at[n] + c * lane.channel));
        }
        for (int n = 0; n < N; ++n) total[n].put(dm + step[n].m * BLOCK<T>);
    });
}

// What a piece's loops work on: a path's scalars and lanes, and room for M and dM.
template <class T>
struct Coupler {
    const CoupledPath& path;
    Side<T> scalar, lane;
    T* m;

    // A (channels, components) of a piece, or added.
    void forward(const Piece& piece, bool add, T* a) const {
        for (const Run& run : piece.runs) {
            const Numbers<T> by = factors(run);
            for (const StepSum& sum : path.there)
                add_sum(sum, path.equal, by, run.count, lanes_of(run), add, a + run.at * step() + sum.to * BLOCK<T>,
                        run.step * step());
        }
    }

    // What dA gives to the gradients of both sides.
    void backward(const Piece& piece, const T* da) const {
        for (const Run& run : piece.runs) {
            const Numbers<T> from{da + run.at * step(), BLOCK<T>, run.step * step()};
            if (lane.d && scalar.v) {
                const Numbers<T> by = factors(run);
                for (const StepSum& sum : path.back)
                    add_sum(sum, path.equal, by, run.count, from, true,
                            lane.d + run.lane * lane.channel + sum.to * lane.component, lane.channel);
            }
            if (scalar.d && lane.v) scalar_gradient(run, from);
        }
    }

   private:
    int64_t step() const { return path.there.size() * BLOCK<T>; }

    Numbers<T> lanes_of(const Run& run) const {
        return {lane.v + run.lane * lane.channel, lane.component, lane.channel};
    }

    Numbers<T> factors(const Run& run) const {
        const T* const from = scalar.v + run.scalar * scalar.channel;
        if (path.equal) return {from, scalar.component, scalar.channel};
        make_factors(path, from, scalar.component, m);
        return {m, BLOCK<T>, 0};
    }

    void scalar_gradient(const Run& run, const Numbers<T>& da) const {
        T* const to = scalar.d + run.scalar * scalar.channel;
        for (const StepSum& sum : path.across)
            add_sum(sum, true, lanes_of(run), run.count, da, true, to + sum.to * scalar.component, scalar.channel);
        if (path.equal) return;
        T* const dm = m + path.factors * BLOCK<T>;
        for (const StepSum& sum : path.there)
            dot_sum(sum, run.count, lanes_of(run), da.p + sum.to * BLOCK<T>, da.channel, dm);
        for (const Source& s : path.sources) {
            Wide<T> total = Wide<T>::at(to + s.b * scalar.component);
            total.add(static_cast<T>(s.c), Wide<T>::at(dm + s.m * BLOCK<T>));
            total.put(to + s.b * scalar.component);
        }
    }
};

}  // namespace EQK_TARGET
}  // namespace eqk
