// The value alone: z[receiver] = sum over its edges of C w x y, path by path over a chunk of edges.
//
// A receiver's sum of a path and a few vectors of channels stays in registers over its edges and is written once, in
// the order outside. Weights are read once, where they are, from memory: while a chunk is summed, those of the next
// one are asked for, row after row, as many lines with each edge of a path as its arithmetic takes time. Whatever
// misses the first-level cache waits behind them; so all paths of a few channels follow each other, and their rows of x
// stay in it.
//
// Weights of a table are formed first, a tile of a path for the whole chunk: edges that read the same rows follow each
// other, and these stay in registers.
#include <cmath>
#include <numeric>

#include "contract_sums.inl"
#include "transpose.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t STREAMED = 32;        // edges of a chunk: their weights come in time
constexpr int64_t TABULATED = 2048;     // of a table: edges whose weights are formed together, at most
constexpr int64_t LEAST = 256;          // and at least: fewer would read a row each
constexpr int64_t M_BYTES = 768 << 10;  // of the M of so many edges: it stays in the second-level cache

template <class T>
void convert_rows(const Sweep<T>& s, const T* from, T* to) {
#pragma omp for
    for (int64_t row = 0; row < s.a.x_rows; ++row)
        to_inside(s.p.x, s.p.mul_ir, from + row * s.p.x_dim, to + row * s.p.x_width);
}

// Ask for the first numbers of a row.
template <class T>
EQK_INLINE const T* fetch(const T* row) {
    for (int64_t n = 0; n < together<T>; n += line<T>) __builtin_prefetch(row + n, 0, 3);
    return row;
}

// The chunk's edges [begin, end) in the order of their knots, and the factors of the rows that they read.
template <class T>
void sort_by_knot(const Sweep<T>& s, Chunk<T>& c, int64_t begin, int64_t end) {
    const ContractArgs<T>& a = s.a;
    c.edges = end - begin;
    std::fill(c.ends.begin(), c.ends.end(), 0);
    for (int64_t at = 0; at < c.edges; ++at) ++c.ends[(c.knot[at] >> c.shift) + 1];
    std::partial_sum(c.ends.begin(), c.ends.end(), c.ends.begin());
    for (int64_t at = 0; at < c.edges; ++at) {
        const int64_t n = c.ends[c.knot[at] >> c.shift]++;
        c.sorted[n] = at;
        const T* const from = a.b ? a.b + s.edge(begin + at) * a.window : nullptr;
        for (int64_t r = 0; r < kMostRows; ++r) c.b[n * kMostRows + r] = from && r < a.window ? from[r] : T(0);
    }
}

// What comes after edge `end`, as far as it was not asked for: of the weights, a list.
template <class T>
void look_ahead(const Sweep<T>& s, Chunk<T>& c, int64_t end) {
    const ContractArgs<T>& a = s.a;
    const int64_t until = std::min(end + c.most, a.edges);
    for (int64_t at = end; a.y && at < until; ++at) fetch_row<0>(a.y + s.edge(at) * s.p.y_dim, s.p.y_dim);
    if (!a.w || a.shared_w || s.table()) return;
    const bool x = a.x && s.far;
    c.asked = std::max(c.asked - (c.ahead.last - c.ahead.rows) / (x ? 2 : 1), end);
    c.next.clear();
    for (; c.asked < until; ++c.asked) {
        const int64_t edge = s.edge(c.asked);
        const T *const w = a.w + edge * s.p.w_dim, *const row = s.x.data() + a.x_index[edge] * s.p.x_width;
        if (x) c.next.push_back({row, row + s.p.x_width});
        c.next.push_back({w, w + s.p.w_dim});
    }
    c.ahead = {c.next.data(), c.next.data() + c.next.size(), c.ahead.at, c.ahead.end};
}

// M of the chunk's edges [begin, end), `lanes` of them side by side, and the rows that they read.
template <class T>
void read_edges(const Sweep<T>& s, Chunk<T>& c, int64_t begin, int64_t end) {
    constexpr int L = lanes<T>;
    const Lowered& p = s.p;
    const ContractArgs<T>& a = s.a;
    const T* const y_end = a.y ? a.y + a.edges * p.y_dim : s.zeros.data() + s.zeros.size();
    for (int64_t from = begin; from < end; from += L) {
        const T* y[L];
        for (int e = 0; e < L; ++e) {
            const int64_t at = from - begin + e, edge = s.edge(std::min(from + e, end - 1));
            y[e] = a.y ? a.y + edge * p.y_dim : s.zeros.data();
            if (from + e >= end) continue;
            EdgeRows<T>& row = c.rows[at];
            row.x = a.x ? s.x.data() + a.x_index[edge] * p.x_width : s.zeros.data();
            row.m = c.m.data() + (from - begin) * p.m_size + e;
            if (a.x && s.far && (!a.w || a.shared_w || s.table()) && from + e + c.most < a.edges)
                fetch_row<0>(s.x.data() + a.x_index[s.edge(from + e + c.most)] * p.x_width, p.x_width);
            if (s.table())
                c.knot[at] = a.knot[edge];
            else if (a.w && !a.shared_w)
                row.w = fetch(a.w + edge * p.w_dim);
        }
        put_side_by_side<T, L>(y, p.y_dim, y_end, c.y.data());
        apply<T, L>(p.m_of_y, c.y.data(), c.m.data() + (from - begin) * p.m_size);
    }
}

// One path, or two that go together, and how many lines are asked for with each edge.
struct Pair {
    const Block *a, *b;
    int lines;
};

// Each path with the largest that reads the same x and fits, if no path between them could add to the same z. Far: rows
// of x are asked for as well.
template <class T>
std::vector<Pair> pairs_of(const Lowered& p, bool far) {
    std::vector<Pair> pairs;
    std::vector<bool> taken(p.blocks.size());
    int64_t work = 0;
    for (size_t n = 0; n < p.blocks.size(); ++n) {
        const Block& a = p.blocks[n];
        work += a.work() * a.mul;
        if (taken[n]) continue;
        size_t with = n;
        for (size_t k = n + 1; k < p.blocks.size(); ++k) {
            const Block& b = p.blocks[k];
            const bool alike = b.x == a.x && b.d1 == a.d1 && (b.w < 0) == (a.w < 0) && !a.unit && !b.unit && b.z_fresh;
            if (!alike || taken[k] || !go_together(a.d1, std::min(a.d3, b.d3), std::max(a.d3, b.d3))) continue;
            if (with == n || b.d3 > p.blocks[with].d3) with = k;
        }
        taken[with] = true;
        const Block& b = p.blocks[with];
        pairs.push_back(with == n ? Pair{&a, nullptr, 0} : b.d3 < a.d3 ? Pair{&b, &a, 0} : Pair{&a, &b, 0});
    }
    for (Pair& pair : pairs) {
        const int64_t own = (pair.a->work() + (pair.b ? pair.b->work() : 0)) * together<T>;
        const int64_t lines = p.w_dim / line<T> + (far ? p.x_width / line<T> : 0);
        pair.lines = static_cast<int>(std::ceil(double(own) * lines / work - 0.1));
    }
    return pairs;
}

// Channels [u, end) of one or two paths.
template <class T>
void run_pair(const Sweep<T>& s, Chunk<T>& c, const Pair& pair, int64_t u, int64_t end) {
    const ContractArgs<T>& a = s.a;
    const Table<T> table{a.w, s.p.w_dim, a.window, a.offsets};
    const bool fixed = pair.a->w < 0, absent = !a.w || (s.table() && !a.b);
    Part<T> parts[2];
    for (int n = 0; n < (pair.b ? 2 : 1); ++n) {
        const Block& b = n ? *pair.b : *pair.a;
        parts[n] = {&b,
                    {a.z + b.z_outside, s.p.z_dim, b.mul, b.z_dim, b.z_first, s.p.mul_ir, b.z_fresh},
                    fixed    ? s.fixed.data()
                    : absent ? s.zeros.data()
                             : a.w + b.column};
    }
    const int d1 = pair.a->unit ? UNIT : pair.a->d1, d3 = pair.a->d3, e3 = pair.b ? pair.b->d3 : 0;
    if (fixed || absent || a.shared_w)
        sum_of<T, Weights::shared>(d1, d3, e3)(c, parts, table, pair.lines, u, end);
    else if (s.table())
        sum_of<T, Weights::table>(d1, d3, e3)(c, parts, table, pair.lines, u, end);
    else
        sum_of<T, Weights::by_edge>(d1, d3, e3)(c, parts, table, pair.lines, u, end);
}

template <class T>
void run_chunk(const Sweep<T>& s, Chunk<T>& c, const std::vector<Pair>& pairs) {
    int64_t widest = 0;
    for (const Block& b : s.p.blocks) widest = std::max(widest, b.mul);
    const int64_t step = s.table() ? widest : together<T>;
    for (int64_t u = 0; u < widest; u += step)
        for (const Pair& pair : pairs)
            if (u < pair.a->mul) run_pair(s, c, pair, u, std::min(pair.a->mul, u + step));
}

// Receivers [first, last), in chunks of edges.
template <class T>
void run_receivers(const Sweep<T>& s, Chunk<T>& c, const std::vector<Pair>& pairs, int64_t first, int64_t last) {
    const ContractArgs<T>& a = s.a;
    if (!s.p.z_covered) std::fill_n(a.z + first * s.p.z_dim, (last - first) * s.p.z_dim, T(0));
    int64_t begin = s.begin(first), end = begin;
    const auto finish = [&] {
        look_ahead(s, c, end);
        read_edges(s, c, begin, end);
        if (s.table()) sort_by_knot(s, c, begin, end);
        run_chunk(s, c, pairs);
        c.stretches.clear();
        begin = end;
    };
    // Receivers are cut by their own edges alone, so that their sums have the same bits in any chunk.
    for (int64_t r = first; r < last; ++r) {
        do {
            const int64_t stop = std::min(s.begin(r + 1), end + c.most);
            if (stop - begin > c.most) finish();
            c.stretches.push_back({r, end - begin, stop - begin, end == s.begin(r)});
            end = stop;
        } while (end < s.begin(r + 1));
    }
    finish();
}

// Edges of a chunk.
template <class T>
int64_t most_edges(const Sweep<T>& s) {
    const int64_t each = std::max<int64_t>(1, s.p.m_size) * int64_t(sizeof(T));
    const int64_t most = s.table() ? std::clamp(M_BYTES / each, LEAST, TABULATED) : STREAMED;
    return std::clamp<int64_t>(s.a.edges, 1, most);
}

template <class T>
void contract_value(Sweep<T>& s, int threads) {
    const ContractArgs<T>& a = s.a;
    const int64_t most = most_edges(s);
    const std::vector<Pair> pairs = pairs_of<T>(s.p, s.far);
    std::vector<Chunk<T>> chunks;
    for (int n = 0; n < threads; ++n) chunks.emplace_back(s.p, most, s.table() ? a.w_rows : 0);
    const int64_t count = static_cast<int64_t>(s.groups.size()) - 1;
    const int64_t run = std::max<int64_t>(1, count / ((s.table() ? 2 : 8) * threads));
    const int64_t runs = (count + run - 1) / run;
#pragma omp parallel num_threads(threads)
    {
        if (s.x.size()) convert_rows(s, a.x, s.x.data());
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < runs; ++n)
            run_receivers(s, chunks[omp_get_thread_num()], pairs, s.groups[n * run],
                          s.groups[std::min(count, (n + 1) * run)]);
    }
}

}  // namespace EQK_TARGET
}  // namespace eqk
