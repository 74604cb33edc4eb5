// A warp's share of a row: lane n has the V channels from u = first + n V on; array[i * V + v] is component i of one.
// Rows hold numbers of type S, arrays of type T.
#pragma once

#include "device.cuh"

namespace eqk {

/// V numbers that are read and written at once.
template <class S, int V>
struct alignas(V * sizeof(S)) Pack {
    S value[V];
};

/// `MUL` channels of `D` components from column `START` on. Where V > 1 everything is a multiple of V. ONCE: no other
/// warp reads what this one reads or writes.
template <int START, int MUL, int D, int V, bool MUL_IR, bool ONCE = false>
struct Segment {
    /// Where value n of a lane's V D lies, and which element of its array that is.
    static EQK_DEVICE int column(int u, int pack) { return START + (MUL_IR ? u * D + pack * V : pack * MUL + u); }
    static EQK_DEVICE constexpr int element(int n) { return MUL_IR ? n % D * V + n / D : n; }

    /// Whether a lane's channels are there.
    static EQK_DEVICE bool inside(int u) { return MUL % (V * WARP) == 0 || u < MUL; }

    /// Zeros for channels that are not there; NaN for a row that is not there.
    template <class S, class T>
    static EQK_DEVICE void load(const S* row, int u, T* to, bool there = true) {
#pragma unroll
        for (int p = 0; p < D; ++p) {
            Pack<S, V> pack;
            if (there && inside(u)) {
                const auto* from = reinterpret_cast<const Pack<S, V>*>(row + column(u, p));
                pack = ONCE ? read_once(from) : *from;
            }
#pragma unroll
            for (int v = 0; v < V; ++v)
                to[element(p * V + v)] = !there ? not_a_number<T>() : inside(u) ? T(pack.value[v]) : T(0);
        }
    }

    template <class S, class T>
    static EQK_DEVICE void store(S* row, int u, const T* from) {
        if (!inside(u)) return;
#pragma unroll
        for (int p = 0; p < D; ++p) {
            Pack<S, V> pack;
#pragma unroll
            for (int v = 0; v < V; ++v) pack.value[v] = S(from[element(p * V + v)]);
            auto* to = reinterpret_cast<Pack<S, V>*>(row + column(u, p));
            if (ONCE)
                write_once(to, pack);
            else
                *to = pack;
        }
    }
};

/// N numbers that all lanes need, lane n % 32 has number n.
template <int N, class T>
struct Spread {
    T part[(N + WARP - 1) / WARP];

    template <class S>
    EQK_DEVICE void load(const S* row, int lane) {
#pragma unroll
        for (int n = 0; n < N; n += WARP) part[n / WARP] = n + lane < N ? T(row[n + lane]) : T(0);
    }

    /// The numbers at the columns of `C`, for every lane.
    template <int... C>
    EQK_DEVICE void gather(T* to) const {
        ((to[C] = __shfl_sync(ALL, part[C / WARP], C % WARP)), ...);
    }
};

/// Lanes that differ in BIT exchange what the other one goes on with of 2 HALF sums; where one is left they add it up.
template <int BIT, int HALF, class T>
EQK_DEVICE void exchange(T* sums, int lane) {
    if constexpr (BIT > 0) {
        const bool upper = lane & BIT;
#pragma unroll
        for (int n = 0; n < HALF; ++n) {
            const T mine = upper ? sums[n + HALF] : sums[n], other = upper ? sums[n] : sums[n + HALF];
            sums[n] = mine + __shfl_xor_sync(ALL, other, BIT);
        }
        if constexpr (HALF == 0) sums[0] += __shfl_xor_sync(ALL, sums[0], BIT);
        exchange<BIT / 2, HALF / 2>(sums, lane);
    }
}

/// to[n] = the sum of p[n] over the lanes, n < N, in about N exchanges, not 5 N.
template <int N, class S, class T>
EQK_DEVICE void store_sums(const T* p, int lane, S* to) {
    constexpr int MANY = N < WARP ? N : WARP, SIZE = power_of_two(MANY);
    constexpr int SAME = WARP / SIZE;  // lanes that hold the same sum in the end
    T sums[SIZE];
#pragma unroll
    for (int n = 0; n < SIZE; ++n) sums[n] = n < MANY ? p[n] : T(0);
    exchange<WARP / 2, SIZE / 2>(sums, lane);
    if (lane % SAME == 0 && lane / SAME < MANY) to[lane / SAME] = S(sums[0]);
    if constexpr (N > WARP) store_sums<N - WARP>(p + WARP, lane, to + WARP);
}

}  // namespace eqk
