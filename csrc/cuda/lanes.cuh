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

/// `MUL` channels of `D` components from column `START` on, each channel STEP columns after the one before. Where V > 1
/// everything is a multiple of V. ONCE: no other warp reads what this one reads or writes.
template <int START, int MUL, int D, int V, bool MUL_IR, bool ONCE = false, int STEP = MUL_IR ? D : 1>
struct Segment {
    /// Where a lane reads, but for the constant of each pack; `row`: where that of the tensor begins. A lane whose
    /// channels are not there reads those of another, and writes nothing.
    template <class S>
    static EQK_DEVICE const S* source(const S* tensor, Index row, int u) {
        return tensor + first(row, inside(u) ? u : 0);
    }

    template <class S, class T>
    static EQK_DEVICE void load(const S* tensor, Index row, int u, T* to) {
        const S* from = source(tensor, row, u);
#pragma unroll
        for (int p = 0; p < D; ++p) {
            const auto* at = reinterpret_cast<const Pack<S, V>*>(from + pack(p));
            const Pack<S, V> read = ONCE ? read_once(at) : *at;
#pragma unroll
            for (int v = 0; v < V; ++v) to[element(p * V + v)] = T(read.value[v]);
        }
    }

    /// The same in two steps: `fetch` starts copies into the memory of the block, from where `take` loads.
    template <class S>
    static EQK_DEVICE void fetch(const S* tensor, Index row, int u, int lane, S* to) {
        const S* from = source(tensor, row, u);
#pragma unroll
        for (int p = 0; p < D; ++p) copy_ahead(slot(to, p, lane), reinterpret_cast<const Pack<S, V>*>(from + pack(p)));
    }
    template <class S, class T>
    static EQK_DEVICE void take(S* from, int lane, T* to) {
#pragma unroll
        for (int p = 0; p < D; ++p) {
            const Pack<S, V> read = *slot(from, p, lane);
#pragma unroll
            for (int v = 0; v < V; ++v) to[element(p * V + v)] = T(read.value[v]);
        }
    }

    template <class S, class T>
    static EQK_DEVICE void store(S* tensor, Index row, int u, const T* from) {
        if (!inside(u)) return;
        S* to = tensor + first(row, u);
#pragma unroll
        for (int p = 0; p < D; ++p) {
            Pack<S, V> made;
#pragma unroll
            for (int v = 0; v < V; ++v) made.value[v] = S(from[element(p * V + v)]);
            auto* at = reinterpret_cast<Pack<S, V>*>(to + pack(p));
            if (ONCE)
                write_once(at, made);
            else
                *at = made;
        }
    }

   private:
    static EQK_DEVICE bool inside(int u) { return MUL % (V * WARP) == 0 || u < MUL; }

    /// Where a lane's numbers begin, but for the constant of each pack.
    static EQK_DEVICE Index first(Index row, int u) { return opaque(row + Index(u) * STEP); }
    static EQK_DEVICE constexpr int pack(int p) { return START + p * (MUL_IR ? V : MUL); }
    template <class S>
    static EQK_DEVICE Pack<S, V>* slot(S* in, int p, int lane) {
        return reinterpret_cast<Pack<S, V>*>(in) + p * WARP + lane;
    }
    /// Which element of its array a lane's n-th number is.
    static EQK_DEVICE constexpr int element(int n) { return MUL_IR ? n % D * V + n / D : n; }
};

template <int N, class T>
EQK_DEVICE void fill(T (&to)[N], T value) {
#pragma unroll
    for (int n = 0; n < N; ++n) to[n] = value;
}

/// N numbers that all lanes need, lane n % 32 has number n.
template <int N, class T>
struct Spread {
    T part[(N + WARP - 1) / WARP];

    template <class S>
    EQK_DEVICE void load(const S* row, int lane) {
#pragma unroll
        for (int n = 0; n < N; n += WARP) part[n / WARP] = n + lane < N ? T(row[n + lane]) : T(0);
    }

    /// Starts copies into the memory of the block, from where `load` reads as from a row.
    template <class S>
    static EQK_DEVICE void fetch(const S* row, int lane, S* to) {
#pragma unroll
        for (int n = 0; n < N; n += WARP)
            if (n + lane < N) copy_ahead(to + n + lane, row + n + lane);
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

/// to[n] = the sum of p[n] over the lanes that take part, n < N, in about N exchanges, not 5 N.
template <int N, class S, class T>
EQK_DEVICE void store_sums(const T* p, bool part, int lane, S* to) {
    constexpr int MANY = N < WARP ? N : WARP, SIZE = power_of_two(MANY);
    constexpr int SAME = WARP / SIZE;  // lanes that hold the same sum in the end
    T sums[SIZE];
#pragma unroll
    for (int n = 0; n < SIZE; ++n) sums[n] = n < MANY && part ? p[n] : T(0);
    exchange<WARP / 2, SIZE / 2>(sums, lane);
    if (lane % SAME == 0 && lane / SAME < MANY) to[lane / SAME] = S(sums[0]);
    if constexpr (N > WARP) store_sums<N - WARP>(p + WARP, part, lane, to + WARP);
}

}  // namespace eqk
