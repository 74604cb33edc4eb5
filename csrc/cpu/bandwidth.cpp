#include "bandwidth.hpp"

#include <chrono>
#include <cstdint>
#include <vector>

namespace eqk {

double memory_bandwidth(int threads) {
    constexpr int64_t size = int64_t(64) << 20, count = size / sizeof(double);
    std::vector<double> memory(3 * count, 1.0);
    double *const a = memory.data(), *const b = a + count, *const c = b + count;
    double best = 0;
    for (int run = 0; run < 5; ++run) {
        const auto start = std::chrono::steady_clock::now();
#pragma omp parallel for num_threads(threads < 1 ? 1 : threads) schedule(static)
        for (int64_t i = 0; i < count; ++i) a[i] = b[i] + 0.5 * c[i];
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        const double rate = 3.0 * size / seconds;
        best = rate > best ? rate : best;
    }
    return best;
}

}  // namespace eqk
