// The sweep over receivers: every edge belongs to one receiver, every receiver to one thread, and each sum has one
// order, so results have the same bits on any number of threads.
//
// A group is a run of receivers with at least GROUP edges. dx is added to by several receivers, the dw of a table by
// several edges: threads keep both by edge for a batch of groups, then each thread adds up the senders (the columns of
// the table) that it owns, in the order of the edges. A thread that is alone adds at once, in the same order.
#include <omp.h>

#include "contract_forward.inl"
#include "peak.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t GROUP = 32;         // edges a group, at least
constexpr int64_t FETCHED = 1 << 20;  // bytes of weights above which they are fetched ahead
constexpr int64_t STREAM = 8 << 20;   // bytes of dw above which it is written past the caches
constexpr int64_t AHEAD = 4;          // edges that rows of other threads are asked for ahead
constexpr int64_t FAR = 8 << 20;      // bytes of rows of x above which they are fetched ahead
constexpr int64_t BATCH = 8 << 20;    // bytes by edge that a batch of groups may keep
constexpr int64_t ALONE = 4096;       // a group with more edges is not shared: what it keeps would not fit the cache

// Where a group's results that others add to as well are kept: by edge, or null to add at once.
template <class T>
struct Kept {
    T *dx, *dw;  // of the receiver's first edge
    T* dw_group;
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
Edges<T> rows_of(const Sweep<T>& s, Worker<T>& t, const int64_t* edges, int count, int64_t position, T* dx_kept,
                 T* dw_kept) {
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
            r.dx_ahead[e] = a.dx && !dx_kept ? s.dx.data() + row : nullptr;
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
        r.dx[e] = (dx_kept ? dx_kept : t.dx.data()) + e * p.x_width;
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
        fetch_columns<1>(rows.dx_ahead[e], first, count);
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
        if (s.a.z) forward_of<T, Second>(b.d1, b.d3)(edges, at);
        if (s.grads) backward_of<T, Second>(b.d1, b.d3)(edges, at);
        if (s.table() && b.w >= 0 && b.last && s.grads) spread_weights(s, t, b, rows, ids, kept);
    }
}

template <class T>
void add(T* to, const T* from, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

// Put away what a block of edges gave: dw by edge, dx by edge (or added to its sender where the thread is alone).
template <class T>
void finish_block(const Sweep<T>& s, Worker<T>& t, const int64_t* edges, int count, bool dx_kept, T* dw_group) {
    const Lowered& p = s.p;
    const ContractArgs<T>& a = s.a;
    for (int e = 0; e < count; ++e) {
        if (a.dw && a.shared_w)
            add(dw_group, t.dw.data() + e * p.w_width, p.w_width);
        else if (a.dw && p.staged_w && !s.table())
            unstage_weights(p, t.dw.data() + e * p.w_width, a.dw + edges[e] * p.w_dim);
        if (a.db) std::copy_n(t.db.data() + e * kMostRows, a.window, a.db + edges[e] * a.window);
        if (!a.dx || dx_kept) continue;
        const T* row = t.dx.data() + e * p.x_width;
        if (!s.gather)
            to_outside(p.x, p.mul_ir, row, a.dx + edges[e] * p.x_dim);
        else
            add(s.dx.data() + a.x_index[edges[e]] * p.x_width, row, p.x_width);
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
        T* const dx = kept.dx ? kept.dx + (at - begin) * p.x_width : nullptr;
        T* const dw = kept.dw ? kept.dw + (at - begin) * s.dw_kept() : nullptr;
        const Edges<T> rows = rows_of(s, t, edges, count, at, dx, dw);
        if (s.grads && !p.x_covered) std::fill_n(rows.dx[0], count * p.x_width, T(0));
        if (a.db) std::fill_n(t.db.data(), t.db.size(), T(0));
        if (a.second)
            run_blocks<T, true>(s, t, rows, edges, lane, dw != nullptr);
        else
            run_blocks<T, false>(s, t, rows, edges, lane, dw != nullptr);
        if (s.grads) finish_block(s, t, edges, count, dx != nullptr, kept.dw_group);
        if (a.dy && (lane + EDGES == SIDE || at + EDGES >= end)) put_dy(s, t, at - lane, end);
    }
    if (a.z) to_outside(p.z, p.mul_ir, t.z.data(), a.z + receiver * p.z_dim);
}

// dx of the batch's edges, each thread for the senders it owns.
template <class T>
void add_senders(const Sweep<T>& s, int64_t begin, int64_t end) {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const int64_t first = s.a.x_rows * thread / threads, last = s.a.x_rows * (thread + 1) / threads;
    const auto owned = [&](int64_t at) {
        const int64_t sender = s.a.x_index[s.edge(at)];
        return sender >= first && sender < last ? sender : -1;
    };
    for (int64_t at = begin; at < end; ++at) {
        const int64_t next = at + AHEAD < end ? owned(at + AHEAD) : -1, sender = owned(at);
        if (next >= 0) {
            fetch_row<0>(s.dx_edges.data() + (at + AHEAD - begin) * s.p.x_width, s.p.x_width);
            fetch_row<1>(s.dx.data() + next * s.p.x_width, s.p.x_width);
        }
        if (sender >= 0)
            add(s.dx.data() + sender * s.p.x_width, s.dx_edges.data() + (at - begin) * s.p.x_width, s.p.x_width);
    }
}

// Groups [first, last) by all threads of the team.
template <class T>
void run_batch(const Sweep<T>& s, Worker<T>& t, int64_t first, int64_t last, bool alone) {
    const int64_t begin = s.begin(s.groups[first]);
    // Runs of groups, not single ones: two threads that fault the same huge page of dw would both clear it.
    const int64_t run = std::max<int64_t>(1, (last - first) / (16 * omp_get_num_threads()));
#pragma omp for schedule(dynamic, run)
    for (int64_t group = first; group < last; ++group) {
        T* dw = s.dw_groups.size() ? s.dw_groups.data() + (group - first) * s.p.w_width : nullptr;
        if (dw) std::fill_n(dw, s.p.w_width, T(0));
        for (int64_t r = s.groups[group]; r < s.groups[group + 1]; ++r) {
            const int64_t at = s.begin(r) - begin;
            run_receiver(s, t, r,
                         Kept<T>{alone || !s.dx_edges.size() ? nullptr : s.dx_edges.data() + at * s.p.x_width,
                                 alone || !s.dw_edges.size() ? nullptr : s.dw_edges.data() + at * s.dw_kept(), dw});
        }
    }
    if (alone || s.dx_edges.size() + s.dw_edges.size() == 0) return;
    if (s.dx_edges.size()) add_senders(s, begin, s.begin(s.groups[last]));
    if (s.dw_edges.size()) add_rows(s, t, begin, s.begin(s.groups[last]));
#pragma omp barrier
}

template <class T>
std::vector<int64_t> make_groups(const ContractArgs<T>& a) {
    std::vector<int64_t> groups{0};
    int64_t start = 0;
    for (int64_t r = 1; r <= a.z_rows; ++r) {
        const int64_t at = a.z_ptr ? a.z_ptr[r] : r;
        if (at - start >= GROUP || r == a.z_rows || r - groups.back() >= 64 * GROUP) {
            groups.push_back(r);
            start = at;
        }
    }
    return groups;
}

// What threads that share a batch keep of an edge, in bytes.
template <class T>
int64_t kept_bytes(const Sweep<T>& s) {
    return ((s.a.dx ? s.p.x_width : 0) + (s.table() && s.a.dw ? s.dw_kept() : 0)) * int64_t(sizeof(T)) + 1;
}

// The end of the batch that starts at group `first`: at most `most` groups, and edges that keep BATCH bytes;
// `alone` if it is one large group.
template <class T>
int64_t batch_end(const Sweep<T>& s, int64_t first, int64_t most, bool& alone) {
    const auto size = [&](int64_t g) { return s.begin(s.groups[g + 1]) - s.begin(s.groups[g]); };
    const int64_t count = static_cast<int64_t>(s.groups.size()) - 1;
    alone = size(first) > ALONE;
    if (alone) return first + 1;
    const int64_t edges = BATCH / kept_bytes(s);
    int64_t last = first + 1, held = size(first);
    while (last < count && last - first < most && size(last) <= ALONE && held + size(last) <= edges)
        held += size(last++);
    return last;
}

template <class T>
void prepare(Sweep<T>& s, int threads, int64_t most) {
    const Lowered& p = s.p;
    const ContractArgs<T>& a = s.a;
    const bool rows = s.table() || a.shared_w;  // weights are not by edge
    int64_t widest = std::max({p.x_width, p.w_width, p.y_dim});
    for (const Placed& x : p.x) widest = std::max(widest, x.padded);
    s.zeros = Buffer<T>(widest + lanes<T>);
    s.fixed = Buffer<T>(widest + lanes<T>);
    std::fill_n(s.zeros.data(), s.zeros.size(), T(0));
    std::fill_n(s.fixed.data(), s.fixed.size(), T(a.fixed));
    s.groups = make_groups(a);
    if (a.z) advise_huge(a.z, a.z_rows * p.z_dim * int64_t(sizeof(T)), threads);
    if (a.dw && !rows) advise_huge(a.dw, a.edges * p.w_dim * int64_t(sizeof(T)), threads);
    if (a.dx) advise_huge(a.dx, a.x_rows * p.x_dim * int64_t(sizeof(T)), threads);
    s.fetch = !rows && !p.staged_w && a.edges * p.w_dim * int64_t(sizeof(T)) > FETCHED;
    s.stream = a.dw && s.fetch && a.edges * p.w_dim * int64_t(sizeof(T)) > STREAM &&
               reinterpret_cast<uintptr_t>(a.dw) % EQK_VECTOR_BYTES == 0 && p.w_dim % lanes<T> == 0;
    s.far = s.gather && a.x_rows * p.x_width * int64_t(sizeof(T)) > FAR;
    if (a.shared_w && a.w) s.w = Buffer<T>(p.w_width), stage_weights(p, a.w, s.w.data());
    if (a.shared_w && a.hw) s.hw = Buffer<T>(p.w_width), stage_weights(p, a.hw, s.hw.data());
    if (a.shared_w && a.dw) s.dw_groups = Buffer<T>(most * p.w_width);
    if (s.gather && a.x) s.x = Buffer<T>(a.x_rows * p.x_width);
    if (s.gather && a.hx) s.hx = Buffer<T>(a.x_rows * p.x_width);
    if (s.gather && a.dx) s.dx = Buffer<T>(a.x_rows * p.x_width);
    const bool keep_dx = s.gather && a.dx, keep_dw = s.table() && a.dw;
    if (threads == 1 || !(keep_dx || keep_dw)) return;
    int64_t longest = 0;
    bool alone = false;
    for (int64_t g = 0, last; g + 1 < static_cast<int64_t>(s.groups.size()); g = last) {
        last = batch_end(s, g, most, alone);
        if (!alone) longest = std::max(longest, s.begin(s.groups[last]) - s.begin(s.groups[g]));
    }
    if (keep_dx) s.dx_edges = Buffer<T>(longest * p.x_width);
    if (!keep_dw) return;
    s.dw_edges = Buffer<T>(longest * s.dw_kept());
    for (size_t n = 0; n < p.blocks.size(); ++n)
        for (int64_t u = 0; p.blocks[n].first && p.blocks[n].w >= 0 && u < p.blocks[n].padded;
             u += COLUMNS<T> * lanes<T>)
            s.columns.push_back({n, u});
}

template <class T>
void contract(const Lowered& p, const ContractArgs<T>& a) {
    const int threads = a.edges < 2 * GROUP ? 1 : a.threads;
    // A batch ends with two barriers: few large ones, but their dx by edge should stay in the shared cache.
    Sweep<T> s{p, a};
    s.grads = a.dx || a.dy || a.dw || a.db;
    s.gather = a.x_index != nullptr;
    for (int64_t c = 0; c < a.window; ++c) s.steps[c] = a.offsets[c] * p.w_dim;
    const int64_t most = std::max<int64_t>(BATCH / (GROUP * kept_bytes(s)), 8 * threads);
    prepare(s, threads, most);
    if (a.z && !s.grads && !a.second && s.gather && a.z_ptr) return contract_value(s, threads);
    std::vector<Worker<T>> workers;
    for (int n = 0; n < threads; ++n) workers.emplace_back(p);
    for (Worker<T>& t : workers)
        if (s.columns.size()) t.rows = Buffer<T>(a.w_rows * COLUMNS<T> * lanes<T>);
    Buffer<T> dw(a.dw && a.shared_w ? p.w_width : 0);
    if (dw.size()) std::fill_n(dw.data(), p.w_width, T(0));
    const int64_t count = static_cast<int64_t>(s.groups.size()) - 1;
#pragma omp parallel num_threads(threads)
    {
        Worker<T>& t = workers[omp_get_thread_num()];
        if (s.x.size()) convert_rows(s, a.x, s.x.data());
        if (s.hx.size()) convert_rows(s, a.hx, s.hx.data());
        if (s.dx.size()) {
#pragma omp for
            for (int64_t row = 0; row < a.x_rows; ++row) std::fill_n(s.dx.data() + row * p.x_width, p.x_width, T(0));
        }
        for (int64_t first = 0, last; first < count; first = last) {
            bool alone = false;
            last = batch_end(s, first, most, alone);
            run_batch(s, t, first, last, alone);
            if (dw.size()) {
#pragma omp single
                for (int64_t g = 0; g < last - first; ++g)
                    add(dw.data(), s.dw_groups.data() + g * p.w_width, p.w_width);
            }
        }
        if (s.stream) drain();
        if (s.dx.size()) {
#pragma omp for
            for (int64_t row = 0; row < a.x_rows; ++row)
                to_outside(p.x, p.mul_ir, s.dx.data() + row * p.x_width, a.dx + row * p.x_dim);
        }
    }
    if (dw.size()) {
        if (p.staged_w)
            unstage_weights(p, dw.data(), a.dw);
        else
            std::copy_n(dw.data(), p.w_dim, a.dw);
    }
}

extern const ContractKernels contract_kernels;
const ContractKernels contract_kernels{EQK_VECTOR_BYTES, contract<float>, contract<double>, fma_peak<float>,
                                       fma_peak<double>};

}  // namespace EQK_TARGET
}  // namespace eqk
