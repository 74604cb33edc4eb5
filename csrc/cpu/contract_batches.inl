// Groups of receivers, shared out to threads a batch at a time.
//
// Several receivers add to the dx of a sender, several edges to the dw of a table. The dx of a group is summed by
// itself, sender by sender; when a batch is through, each thread adds the groups' sums up, in their order, for the
// senders that it owns. The dw of a table is kept by edge and added up by columns. So every sum has one order on any
// number of threads.
#pragma once

#include <omp.h>

#include "contract_edges.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t RECEIVERS = 2048;  // of a group, at most, where few have edges
constexpr int64_t LONG = 2048;       // edges a group of a gradient, at least, and in small graphs
constexpr int64_t SHARE = 16;        // one part of so many
constexpr int64_t AHEAD = 4;         // rows of other threads that are asked for ahead
constexpr int64_t BATCH = 8 << 20;   // bytes by edge, and by sender for each thread, that a batch may keep
constexpr int64_t ALONE = 4096;      // a group with more edges is not shared: what it keeps would not fit the cache

// The first receiver of each group of `least` edges or a few more, and the end.
template <class T>
std::vector<int64_t> make_groups(const ContractArgs<T>& a, int64_t least) {
    std::vector<int64_t> groups{0};
    int64_t start = 0;
    for (int64_t r = 1; r <= a.z_rows; ++r) {
        const int64_t at = a.z_ptr ? a.z_ptr[r] : r;
        if (at - start >= least || r == a.z_rows || r - groups.back() >= RECEIVERS) {
            groups.push_back(r);
            start = at;
        }
    }
    return groups;
}

// Consecutive groups.
struct Batch {
    int64_t first, last;
    bool alone;  // one large group: what it gives to a table is added at once
};

// The batch that starts at a group: a few for each thread, as long as what they keep fits the caches.
template <class T>
Batch batch_from(const Sweep<T>& s, int64_t first, int threads) {
    const int64_t count = static_cast<int64_t>(s.groups.size()) - 1;
    const auto edges = [&](int64_t g) { return s.begin(s.groups[g + 1]) - s.begin(s.groups[g]); };
    const int64_t by_edge = s.table() && s.a.dw ? s.dw_kept() * int64_t(sizeof(T)) : 0;
    const int64_t by_sender = s.dx.size() ? s.p.x_width * int64_t(sizeof(T)) : 0;
    Batch b{first, first, by_edge > 0 && edges(first) > ALONE};
    int64_t held = 0, summed = 0;
    do {
        held += edges(b.last) * by_edge;
        summed += std::min(edges(b.last), s.a.x_rows) * by_sender;
        ++b.last;
    } while (!b.alone && b.last < count && b.last - first < 4 * threads && !(by_edge && edges(b.last) > ALONE) &&
             held + edges(b.last) * by_edge <= BATCH && summed <= BATCH * threads);
    return b;
}

// Room for what the groups of any batch keep.
template <class T>
void make_room(Sweep<T>& s, int threads) {
    const int64_t count = static_cast<int64_t>(s.groups.size()) - 1;
    int64_t groups = 0, edges = 0, senders = 0;
    for (Batch b{0, 0, false}; b.last < count;) {
        b = batch_from(s, b.last, threads);
        groups = std::max(groups, b.last - b.first);
        if (!b.alone) edges = std::max(edges, s.begin(s.groups[b.last]) - s.begin(s.groups[b.first]));
        int64_t rows = 0;
        for (int64_t g = b.first; g < b.last; ++g)
            rows += std::min(s.begin(s.groups[g + 1]) - s.begin(s.groups[g]), s.a.x_rows);
        senders = std::max(senders, rows);
    }
    if (s.a.shared_w && s.a.dw) s.dw_groups = Buffer<T>(groups * s.p.w_width);
    if (s.dx.size()) s.sums.resize(groups), s.dx_groups = Buffer<T>(senders * s.p.x_width);
    if (threads > 1 && s.table() && s.a.dw) s.dw_edges = Buffer<T>(edges * s.dw_kept());
}

// The sums of a batch's groups to dx, in their order, each thread for the senders it owns.
template <class T>
void add_senders(const Sweep<T>& s, int64_t groups) {
    const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads(), width = s.p.x_width;
    const int64_t first = s.a.x_rows * thread / threads, last = s.a.x_rows * (thread + 1) / threads;
    for (int64_t g = 0; g < groups; ++g) {
        const SenderSums<T>& sums = s.sums[g];
        const int64_t count = static_cast<int64_t>(sums.senders.size());
        const auto owned = [&](int64_t n) { return n < count && sums.senders[n] >= first && sums.senders[n] < last; };
        for (int64_t n = 0; n < count; ++n) {
            if (owned(n + AHEAD)) {
                fetch_row<0>(sums.rows + (n + AHEAD) * width, width);
                fetch_row<1>(s.dx.data() + sums.senders[n + AHEAD] * width, width);
            }
            if (owned(n)) add(s.dx.data() + sums.senders[n] * width, sums.rows + n * width, width);
        }
    }
}

// One batch by all threads of the team.
template <class T>
void run_batch(Sweep<T>& s, Worker<T>& t, const Batch& b) {
    const int64_t begin = s.begin(s.groups[b.first]);
#pragma omp single
    {
        T* rows = s.dx_groups.data();
        for (int64_t g = b.first; s.dx.size() && g < b.last; ++g) {
            SenderSums<T>& sums = s.sums[g - b.first];
            sums.senders.clear();
            sums.rows = rows;
            rows += std::min(s.begin(s.groups[g + 1]) - s.begin(s.groups[g]), s.a.x_rows) * s.p.x_width;
        }
    }
#pragma omp for schedule(dynamic)
    for (int64_t group = b.first; group < b.last; ++group) {
        T* const dw = s.dw_groups.size() ? s.dw_groups.data() + (group - b.first) * s.p.w_width : nullptr;
        if (dw) std::fill_n(dw, s.p.w_width, T(0));
        SenderSums<T>* const dx = s.dx.size() ? &s.sums[group - b.first] : nullptr;
        for (int64_t r = s.groups[group]; r < s.groups[group + 1]; ++r) {
            const bool by_edge = s.dw_edges.size() && !b.alone;
            T* const kept = by_edge ? s.dw_edges.data() + (s.begin(r) - begin) * s.dw_kept() : nullptr;
            run_receiver(s, t, r, Kept<T>{dx, kept, dw});
        }
    }
    if (s.dx.size()) add_senders(s, b.last - b.first);
    if (s.dw_edges.size() && !b.alone) add_rows(s, t, begin, s.begin(s.groups[b.last]));
#pragma omp barrier
}

}  // namespace EQK_TARGET
}  // namespace eqk
