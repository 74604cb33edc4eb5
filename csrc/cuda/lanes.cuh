// A warp's share of a row: lane n has the V channels from u = first + n V on; array[i * V + v] is component i of one.
#pragma once

#include "device.cuh"

namespace eqk {

/// V numbers that are read and written at once.
template <class T, int V>
struct alignas(V * sizeof(T)) Pack {
    T value[V];
};

/// `MUL` channels of `D` components from column `START` on. Where V > 1 everything is a multiple of V.
template <int START, int MUL, int D, int V, bool MUL_IR>
struct Segment {
    /// Where value n of a lane's V D lies, and which element of its array that is.
    static EQK_DEVICE int column(int u, int pack) { return START + (MUL_IR ? u * D + pack * V : pack * MUL + u); }
    static EQK_DEVICE constexpr int element(int n) { return MUL_IR ? n % D * V + n / D : n; }

    /// Zeros for channels that are not there; NaN for a row that is not there.
    template <class T>
    static EQK_DEVICE void load(const T* row, int u, T* to) {
#pragma unroll
        for (int p = 0; p < D; ++p) {
            Pack<T, V> pack;
#pragma unroll
            for (int v = 0; v < V; ++v) pack.value[v] = row ? T(0) : not_a_number<T>();
            if (row && u < MUL) pack = *reinterpret_cast<const Pack<T, V>*>(row + column(u, p));
#pragma unroll
            for (int v = 0; v < V; ++v) to[element(p * V + v)] = pack.value[v];
        }
    }

    template <class T>
    static EQK_DEVICE void store(T* row, int u, const T* from) {
        if (u >= MUL) return;
#pragma unroll
        for (int p = 0; p < D; ++p) {
            Pack<T, V> pack;
#pragma unroll
            for (int v = 0; v < V; ++v) pack.value[v] = from[element(p * V + v)];
            *reinterpret_cast<Pack<T, V>*>(row + column(u, p)) = pack;
        }
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
            sums[n] = mine + __shfl_xor_sync(0xffffffffu, other, BIT);
        }
        if constexpr (HALF == 0) sums[0] += __shfl_xor_sync(0xffffffffu, sums[0], BIT);
        exchange<BIT / 2, HALF / 2>(sums, lane);
    }
}

/// to[n] = the sum of p[n] over the lanes, n < N <= 32, in about N exchanges, not 5 N.
template <int N, class T>
EQK_DEVICE void warp_sums(const T* p, int lane, T* to) {
    constexpr int SIZE = power_of_two(N), SAME = WARP / SIZE;  // lanes that hold the same sum in the end
    static_assert(N <= WARP, "one warp has room for 32 sums");
    T sums[SIZE];
#pragma unroll
    for (int n = 0; n < SIZE; ++n) sums[n] = n < N ? p[n] : T(0);
    exchange<WARP / 2, SIZE / 2>(sums, lane);
    if (lane % SAME == 0 && lane / SAME < N) to[lane / SAME] = sums[0];
}

}  // namespace eqk
