// Symmetric contractions, F(x, w, z) of equikern/program/symmetric.py: lanes are channels, a thread has its channel of
// a few nodes in registers. What it does with them is emitted (`equikern/backends/cuda/symmetric.py`); here is how it
// finds, reads and writes them.
#pragma once

#include "lanes.cuh"

namespace eqk {

/// A number of each of R nodes.
template <class T, int R>
struct Several {
    T at[R];
};
template <class T, int R>
EQK_DEVICE Several<T, R> operator*(Several<T, R> a, Several<T, R> b) {
#pragma unroll
    for (int r = 0; r < R; ++r) a.at[r] *= b.at[r];
    return a;
}
template <class T, int R>
EQK_DEVICE Several<T, R> operator*(T a, Several<T, R> b) {
#pragma unroll
    for (int r = 0; r < R; ++r) b.at[r] *= a;
    return b;
}
template <class T, int R>
EQK_DEVICE Several<T, R> operator+(Several<T, R> a, Several<T, R> b) {
#pragma unroll
    for (int r = 0; r < R; ++r) a.at[r] += b.at[r];
    return a;
}
template <class T, int R>
EQK_DEVICE void operator+=(Several<T, R>& a, Several<T, R> b) {
    a = a + b;
}

/// Operands and results, numbers of type S that are computed in T. x[n] is null where it is zero; a result is null
/// where it is not wanted.
template <class S, class T, int READS>
struct Contraction {
    const S *w, *z;  // (species, TERMS, CHANNELS), (nodes, Z_DIM)
    const S* x[READS];
    S *dw, *dz;
    T* part;  // gradients of w, summed over chunks of nodes
    S* dx[READS];
    const Index *kinds, *order;   // species, ascending, and the nodes that are of them
    Index nodes, species, chunk;  // chunk: nodes of one

    /// Where a species begins, or would begin, in `kinds`.
    EQK_DEVICE Index begin(Index kind) const {
        Index first = 0, last = nodes;
        while (first < last) {
            const Index middle = (first + last) / 2;
            if (kinds[middle] < kind)
                first = middle + 1;
            else
                last = middle;
        }
        return first;
    }
};

/// A channel of some nodes. F: the sizes of a program, where its columns lie, how many NODES a thread has.
template <class F>
struct Nodes {
    static constexpr int R = F::NODES, GROUPS = F::THREADS / F::LANES;  // GROUPS: threads that have the same channel
    using S = typename F::Real;
    using T = typename F::Wide;
    using N = Several<T, R>;
    using Row = Pack<N, F::X_PACK>;

    const typename F::Argument& in;
    Index channel, place, node[R], kind[R], turn = 0;
    bool known = false;

    EQK_DEVICE Nodes(const typename F::Argument& given, Index channels)
        : in(given),
          channel(channels * F::LANES + threadIdx.x % F::LANES),
          place(Index(blockIdx.x) * GROUPS + threadIdx.x / F::LANES) {}

    EQK_DEVICE void find(int r, Index n) {
        node[r] = in.order[n];
        kind[r] = in.kinds[n];
    }

    /// Takes the nodes of this thread, in the order of their species; false if there are none.
    EQK_DEVICE bool begin() {
        const Index first = place * R, last = in.nodes - 1;
        if (channel >= F::CHANNELS || first > last) return false;
#pragma unroll
        for (int r = 0; r < R; ++r) find(r, first + r < last ? first + r : last);
        take(kind[0]);
        return true;
    }
    EQK_DEVICE void take(Index next) {
        turn = next;
        known = turn >= 0 && turn < in.species;
    }
    /// On to the nodes of the next species; false if there are no more. Seldom are there any.
    EQK_DEVICE bool again() {
#pragma unroll
        for (int r = 1; r < R; ++r)
            if (kind[r] > turn) {
                take(kind[r]);
                return true;
            }
        return false;
    }

    EQK_DEVICE T weight(int row) const {
        return T(in.w[((known ? turn : 0) * F::TERMS + row) * F::CHANNELS + channel]);
    }
    EQK_DEVICE N z(int k) const {
        N value;
#pragma unroll
        for (int r = 0; r < R; ++r) value.at[r] = T(in.z[node[r] * F::Z_DIM + F::z_column(k, channel)]);
        return value;
    }
    /// Components i, i + 1, ... of x[set].
    EQK_DEVICE Row x(int set, int i) const {
        Row row{};
        if (!in.x[set]) return row;
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const S* from = in.x[set] + node[r] * F::X_DIM + F::x_column(i, channel);
            const auto pack = *reinterpret_cast<const Pack<S, F::X_PACK>*>(from);
#pragma unroll
            for (int v = 0; v < F::X_PACK; ++v) row.value[v].at[r] = T(pack.value[v]);
        }
        return row;
    }

    /// Writes what belongs to nodes of the species whose turn it is: NaN if there is no such species.
    EQK_DEVICE void write_z(int k, N value) const {
#pragma unroll
        for (int r = 0; r < R; ++r)
            if (kind[r] == turn) in.dz[node[r] * F::Z_DIM + F::z_column(k, channel)] = checked(value.at[r]);
    }
    EQK_DEVICE void write_x(int set, int i, const Row& row) const {
#pragma unroll
        for (int r = 0; r < R; ++r) {
            Pack<S, F::X_PACK> pack;
#pragma unroll
            for (int v = 0; v < F::X_PACK; ++v) pack.value[v] = checked(row.value[v].at[r]);
            S* to = in.dx[set] + node[r] * F::X_DIM + F::x_column(i, channel);
            if (kind[r] == turn) *reinterpret_cast<Pack<S, F::X_PACK>*>(to) = pack;
        }
    }
    EQK_DEVICE S checked(T value) const { return S(known ? value : not_a_number<T>()); }
};

/// A channel of the nodes of a chunk, one by one, in the order of their species.
template <class F>
struct Chunk : Nodes<F> {
    using Base = Nodes<F>;
    Index next, last;

    EQK_DEVICE Chunk(const typename F::Argument& given, Index channels) : Base(given, channels) {
        next = Base::place * given.chunk;
        last = next + given.chunk < given.nodes ? next + given.chunk : given.nodes;
        if (Base::channel >= F::CHANNELS) last = next;
    }
    /// On to the next node of a species that there is.
    EQK_DEVICE bool more() {
        while (next < last) {
            Base::find(0, next++);
            Base::take(Base::kind[0]);
            if (Base::known) return true;
        }
        return false;
    }
    /// Whether no other node of this species follows.
    EQK_DEVICE bool ends() const { return next == last || Base::in.kinds[next] != Base::turn; }

    /// Chunk t of species s is row t + s of `part`: no two of those that there are have the same sum.
    EQK_DEVICE void write_w(int row, typename Base::N sum) const {
        Base::in.part[((Base::place + Base::turn) * F::TERMS + row) * F::CHANNELS + Base::channel] = sum.at[0];
    }
};

/// The gradient of w from its parts: `size` numbers of each species.
template <class F>
EQK_DEVICE void sum_parts(const typename F::Argument& in) {
    const Index size = F::TERMS * F::CHANNELS, element = Index(blockIdx.x) * F::THREADS + threadIdx.x;
    const Index s = blockIdx.y, first = in.begin(s), last = in.begin(s + 1);
    if (element >= size) return;
    typename F::Wide sum = 0;
    if (first < last)
#pragma unroll 4
        for (Index t = first / in.chunk; t <= (last - 1) / in.chunk; ++t) sum += in.part[(t + s) * size + element];
    in.dw[s * size + element] = typename F::Real(sum);
}

}  // namespace eqk
