// The sweep over receivers: every edge belongs to one receiver, every receiver to one thread, and each sum has one
// order, so results have the same bits on any number of threads.
#include <omp.h>

#include "contract_batches.inl"
#include "contract_forward.inl"
#include "peak.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t GROUP = 32;         // edges a group of the value, at least
constexpr int64_t FETCHED = 1 << 20;  // bytes of weights above which they are fetched ahead
constexpr int64_t STREAM = 8 << 20;   // bytes of dw above which it is written past the caches
constexpr int64_t FAR = 8 << 20;      // bytes of rows of x above which they are fetched ahead

template <class T>
void prepare(Sweep<T>& s, int threads) {
    const Lowered& p = s.p;
    const ContractArgs<T>& a = s.a;
    const bool rows = s.table() || a.shared_w;  // weights are not by edge
    int64_t widest = std::max({p.x_width, p.w_width, p.y_dim});
    for (const Placed& x : p.x) widest = std::max(widest, x.padded);
    s.zeros = Buffer<T>(widest + lanes<T>);
    s.fixed = Buffer<T>(widest + lanes<T>);
    std::fill_n(s.zeros.data(), s.zeros.size(), T(0));
    std::fill_n(s.fixed.data(), s.fixed.size(), T(a.fixed));
    if (a.z) advise_huge(a.z, a.z_rows * p.z_dim * int64_t(sizeof(T)), threads);
    if (a.dw && !rows) advise_huge(a.dw, a.edges * p.w_dim * int64_t(sizeof(T)), threads);
    if (a.dx) advise_huge(a.dx, a.x_rows * p.x_dim * int64_t(sizeof(T)), threads);
    s.fetch = !rows && !p.staged_w && a.edges * p.w_dim * int64_t(sizeof(T)) > FETCHED;
    s.stream = a.dw && s.fetch && a.edges * p.w_dim * int64_t(sizeof(T)) > STREAM &&
               reinterpret_cast<uintptr_t>(a.dw) % EQK_VECTOR_BYTES == 0 && p.w_dim % lanes<T> == 0;
    s.far = s.gather && a.x_rows * p.x_width * int64_t(sizeof(T)) > FAR;
    if (a.shared_w && a.w) s.w = Buffer<T>(p.w_width), stage_weights(p, a.w, s.w.data());
    if (a.shared_w && a.hw) s.hw = Buffer<T>(p.w_width), stage_weights(p, a.hw, s.hw.data());
    if (s.gather && a.x) s.x = Buffer<T>(a.x_rows * p.x_width);
    if (s.gather && a.hx) s.hx = Buffer<T>(a.x_rows * p.x_width);
    if (s.gather && a.dx) s.dx = Buffer<T>(a.x_rows * p.x_width);
    if (threads == 1 || !s.table() || !a.dw) return;
    for (size_t n = 0; n < p.blocks.size(); ++n)
        for (int64_t u = 0; p.blocks[n].first && p.blocks[n].w >= 0 && u < p.blocks[n].padded;
             u += COLUMNS<T> * lanes<T>)
            s.columns.push_back({n, u});
}

template <class T>
void contract(const Lowered& p, const ContractArgs<T>& a) {
    const int threads = a.edges < 2 * GROUP ? 1 : a.threads;
    Sweep<T> s{p, a};
    s.grads = a.dx || a.dy || a.dw || a.db;
    s.gather = a.x_index != nullptr;
    for (int64_t c = 0; c < a.window; ++c) s.steps[c] = a.offsets[c] * p.w_dim;
    prepare(s, threads);
    const bool value = a.z && !s.grads && !a.second && s.gather && a.z_ptr;
    s.groups = make_groups(a, value ? GROUP : std::clamp(a.edges / SHARE, 2 * GROUP, LONG));
    if (value) return contract_value(s, threads);
    make_room(s, threads);
    std::vector<Worker<T>> workers;
    for (int n = 0; n < threads; ++n) workers.emplace_back(p, s.dx.size() ? a.x_rows : 0);
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
        for (Batch b{0, 0, false}; b.last < count;) {
            b = batch_from(s, b.last, threads);
            run_batch(s, t, b);
            if (dw.size()) {
#pragma omp single
                for (int64_t g = 0; g < b.last - b.first; ++g)
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
