// The edges of one receiver: a few at a time through the blocks of all paths, their rows before and after.
#pragma once

#include "contract_table.inl"
#include "transpose.inl"

namespace eqk {
namespace EQK_TARGET {

// Where a group's results that others add to as well are kept.
template <class T>
struct Kept {
    SenderSums<T>* dx;
    T* dw;        // of a table, by edge from the receiver's first on, or null to add to it at once
    T* dw_group;  // of weights that edges share
};

template <class T>
void stage_weights(const Lowered& p, const T* from, T* to) {
    if (!p.staged_w) {
        std::copy_n(from, p.w_dim, to);
        return;
    }
    int64_t column = 0;
    for (const Segment& path : p.w_map) {
        std::copy_n(from + column, path.mul, to + path.dim);
        std::fill_n(to + path.dim + path.mul, (lanes<T> - path.mul % lanes<T>) % lanes<T>, T(0));
        column += path.mul;
    }
}

template <class T>
void unstage_weights(const Lowered& p, const T* from, T* to) {
    int64_t column = 0;
    for (const Segment& path : p.w_map) {
        std::copy_n(from + path.dim, path.mul, to + column);
        column += path.mul;
    }
}

// M of up to SIDE edges from `at` on, side by side; lanes beyond the last edge hold anything. A null y is zero.
template <class T>
void form_m(const Sweep<T>& s, int64_t at, int64_t end, const T* y, T* staged, T* m) {
    const T* rows[SIDE];
    for (int e = 0; e < SIDE; ++e) rows[e] = y ? y + s.edge(std::min(at + e, end - 1)) * s.p.y_dim : s.zeros.data();
    put_side_by_side<T, SIDE>(rows, s.p.y_dim, y ? y + s.a.edges * s.p.y_dim : s.zeros.data() + s.zeros.size(), staged);
    apply<T, SIDE>(s.p.m_of_y, staged, m);
}

// dy from dM, for the edges that M was formed for.
template <class T>
void put_dy(const Sweep<T>& s, Worker<T>& t, int64_t at, int64_t end) {
    const int64_t y_dim = s.p.y_dim, count = std::min<int64_t>(SIDE, end - at);
    apply<T, SIDE>(s.p.y_of_m, t.dm.data(), t.dy.data());
    for (int64_t e = 0; e < count; ++e)
        for (int64_t j = 0; j < y_dim; ++j) s.a.dy[s.edge(at + e) * y_dim + j] = t.dy[j * SIDE + e];
}

// The rows that the kernels of one block of edges read and write, before they are moved to a path's segments.
template <class T>
Edges<T> rows_of(const Sweep<T>& s, Worker<T>& t, const int64_t* edges, int count, int64_t position, T* dw_kept) {
    const Lowered& p = s.p;
    const ContractArgs<T>& a = s.a;
    Edges<T> r{};
    r.count = count;
    for (int e = 0; e < count; ++e) {
        const int64_t edge = edges[e];
        const int64_t next = position + EDGES + e < a.edges ? s.edge(position + EDGES + e) : edge;
        if (s.fetch) {
            r.ahead[e] = a.w ? a.w + next * p.w_dim : nullptr;
            r.tangent_ahead[e] = a.hw ? a.hw + next * p.w_dim : nullptr;
            r.dw_ahead[e] = a.dw && !s.stream ? a.dw + next * p.w_dim : nullptr;
        }
        if (s.far) {
            const int64_t row = a.x_index[next] * p.x_width;
            r.x_ahead[e] = a.x ? s.x.data() + row : nullptr;
            r.hx_ahead[e] = a.hx ? s.hx.data() + row : nullptr;
        }
        if (s.gather) {
            r.x[e] = a.x ? s.x.data() + a.x_index[edge] * p.x_width : s.zeros.data();
            r.hx[e] = a.hx ? s.hx.data() + a.x_index[edge] * p.x_width : s.zeros.data();
        } else {
            r.x[e] = r.hx[e] = s.zeros.data();
            if (a.x)
                to_inside(p.x, p.mul_ir, a.x + edge * p.x_dim, t.x.data() + e * p.x_width),
                    r.x[e] = t.x.data() + e * p.x_width;
            if (a.hx)
                to_inside(p.x, p.mul_ir, a.hx + edge * p.x_dim, t.hx.data() + e * p.x_width),
                    r.hx[e] = t.hx.data() + e * p.x_width;
        }
        r.dx[e] = t.dx.data() + e * p.x_width;
        r.dw[e] = p.staged_w || a.shared_w || !a.dw || s.stream ? t.dw.data() + e * p.w_width : a.dw + edge * p.w_dim;
        if (s.stream) r.streamed[e] = a.dw + edge * p.w_dim;
        if (s.table()) {
            r.w[e] = t.w.data() + e * p.w_width;
            r.hw[e] = t.hw.data() + e * p.w_width;
            if (dw_kept) r.dw[e] = dw_kept + e * s.dw_kept();
            if (a.second) r.plain[e] = dw_kept ? r.dw[e] + p.w_width : t.plain.data() + e * p.w_width;
            continue;
        }
        r.w[e] = !a.w ? s.zeros.data() : a.shared_w ? s.w.data() : a.w + edge * p.w_dim;
        r.hw[e] = !a.hw ? s.zeros.data() : a.shared_w ? s.hw.data() : a.hw + edge * p.w_dim;
        if (p.staged_w && !a.shared_w) {
            if (a.w)
                stage_weights(p, a.w + edge * p.w_dim, t.w.data() + e * p.w_width), r.w[e] = t.w.data() + e * p.w_width;
            if (a.hw)
                stage_weights(p, a.hw + edge * p.w_dim, t.hw.data() + e * p.w_width),
                    r.hw[e] = t.hw.data() + e * p.w_width;
        }
    }
    return r;
}

// Ask for rows of x of the next edges, the n-th part of `parts`.
template <class T>
EQK_INLINE void ask_x(const Edges<T>& rows, int64_t width, int64_t n, int64_t parts) {
    const int64_t share = (width / parts / line<T> + 1) * line<T>, first = n * share;
    const int64_t count = std::min(share, width - first);
    for (int e = 0; e < rows.count; ++e) {
        fetch_columns<0>(rows.x_ahead[e], first, count);
        fetch_columns<0>(rows.hx_ahead[e], first, count);
    }
}

template <class T, bool Second>
void run_blocks(const Sweep<T>& s, Worker<T>& t, const Edges<T>& rows, const int64_t* ids, int64_t lane, bool kept) {
    Edges<T> unweighted = rows;
    for (int e = 0; e < EDGES; ++e) {
        unweighted.w[e] = s.fixed.data();
        unweighted.hw[e] = s.zeros.data();
        unweighted.dw[e] = t.unused.data();
        unweighted.plain[e] = unweighted.streamed[e] = nullptr;
        unweighted.ahead[e] = unweighted.tangent_ahead[e] = unweighted.dw_ahead[e] = nullptr;
    }
    for (const Block& b : s.p.blocks) {
        const Edges<T>& edges = b.w < 0 ? unweighted : rows;
        const Place<T> at{b.x,
                          std::max<int64_t>(b.w, 0),
                          b.padded,
                          t.m.data() + b.m * SIDE + lane,
                          t.n.data() + b.m * SIDE + lane,
                          t.g.data() + b.z,
                          t.z.data() + b.z,
                          t.dm.data() + b.m * SIDE + lane,
                          b.x_fresh,
                          b.first,
                          b.last};
        if (s.far) ask_x(rows, s.p.x_width, &b - s.p.blocks.data(), s.p.blocks.size());
        if (s.table() && b.w >= 0 && b.first) form_weights(s, t, b, ids, rows.count);
        if (s.a.z) forward_of<T, Second>(b)(edges, at);
        if (s.grads) backward_of<T, Second>(b)(edges, at);
        if (s.table() && b.w >= 0 && b.last && s.grads) spread_weights(s, t, b, rows, ids, kept);
    }
}

template <class T>
void add(T* to, const T* from, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// The dx of an edge to its sender's sum.
template <class T>
void add_to_sender(const Sweep<T>& s, Worker<T>& t, int64_t sender, const T* row, SenderSums<T>& sums) {
    const int64_t width = s.p.x_width, met = static_cast<int64_t>(sums.senders.size());
    int64_t& place = t.place[sender];
    if (place < met && sums.senders[place] == sender) {
        add(sums.rows + place * width, row, width);
        return;
    }
    place = met;
    sums.senders.push_back(sender);
    std::copy_n(row, width, sums.rows + met * width);
}

// Put away what a block of edges gave.
template <class T>
void finish_block(const Sweep<T>& s, Worker<T>& t, const int64_t* edges, int count, const Kept<T>& kept) {
    const Lowered& p = s.p;
    const ContractArgs<T>& a = s.a;
    for (int e = 0; e < count; ++e) {
        if (a.dw && a.shared_w)
            add(kept.dw_group, t.dw.data() + e * p.w_width, p.w_width);
        else if (a.dw && p.staged_w && !s.table())
            unstage_weights(p, t.dw.data() + e * p.w_width, a.dw + edges[e] * p.w_dim);
        if (a.db) std::copy_n(t.db.data() + e * kMostRows, a.window, a.db + edges[e] * a.window);
        if (!a.dx) continue;
        const T* const row = t.dx.data() + e * p.x_width;
        if (!s.gather)
            to_outside(p.x, p.mul_ir, row, a.dx + edges[e] * p.x_dim);
        else
            add_to_sender(s, t, a.x_index[edges[e]], row, *kept.dx);
    }
}

// Ask for what the next receiver reads first, a part of it with each block of edges: its g, and y as far ahead. Inline:
// g++ takes calls of functions that do nothing but ask for calls without effect.
template <class T>
EQK_INLINE void ask_next(const Sweep<T>& s, int64_t receiver, int64_t at) {
    const Lowered& p = s.p;
    const ContractArgs<T>& a = s.a;
    const int64_t begin = s.begin(receiver), end = s.begin(receiver + 1), blocks = (end - begin + EDGES - 1) / EDGES;
    if (receiver + 1 < a.z_rows && s.grads) {
        const int64_t share = (p.z_dim / blocks / line<T> + 1) * line<T>, first = (at - begin) / EDGES * share;
        fetch_columns<0>(a.g + (receiver + 1) * p.z_dim, first, std::min(share, p.z_dim - first));
    }
    const int64_t later = at + end - begin;
    for (int64_t next = later; next < std::min(later + EDGES, a.edges); ++next) {
        if (a.y) fetch_columns<0>(a.y + s.edge(next) * p.y_dim, 0, p.y_dim);
        if (a.hy) fetch_columns<0>(a.hy + s.edge(next) * p.y_dim, 0, p.y_dim);
    }
}

// All edges of one receiver.
template <class T>
void run_receiver(const Sweep<T>& s, Worker<T>& t, int64_t receiver, const Kept<T>& kept) {
    const Lowered& p = s.p;
    const ContractArgs<T>& a = s.a;
    const int64_t begin = s.begin(receiver), end = s.begin(receiver + 1);
    if (a.z) std::fill_n(t.z.data(), p.z_width, T(0));
    if (s.grads && begin < end) to_inside(p.z, p.mul_ir, a.g + receiver * p.z_dim, t.g.data());
    for (int64_t at = begin; at < end; at += EDGES) {
        const int count = static_cast<int>(std::min<int64_t>(EDGES, end - at));
        int64_t edges[EDGES];
        for (int e = 0; e < count; ++e) edges[e] = s.edge(at + e);
        ask_next(s, receiver, at);
        const int64_t lane = (at - begin) % SIDE;
        if (lane == 0) form_m(s, at, end, a.y, t.y.data(), t.m.data());
        if (lane == 0 && a.second) form_m(s, at, end, a.hy, t.hy.data(), t.n.data());
        T* const dw = kept.dw ? kept.dw + (at - begin) * s.dw_kept() : nullptr;
        const Edges<T> rows = rows_of(s, t, edges, count, at, dw);
        if (s.grads && !p.x_covered) std::fill_n(rows.dx[0], count * p.x_width, T(0));
        if (a.db) std::fill_n(t.db.data(), t.db.size(), T(0));
        if (a.second)
            run_blocks<T, true>(s, t, rows, edges, lane, dw != nullptr);
        else
            run_blocks<T, false>(s, t, rows, edges, lane, dw != nullptr);
        if (s.grads) finish_block(s, t, edges, count, kept);
        if (a.dy && (lane + EDGES == SIDE || at + EDGES >= end)) put_dy(s, t, at - lane, end);
    }
    if (a.z) to_outside(p.z, p.mul_ir, t.z.data(), a.z + receiver * p.z_dim);
}

}  // namespace EQK_TARGET
}  // namespace eqk
