#include "plan.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace eqk {

namespace {

// Whether all numbers lie in [0, rows): without a branch, so that the compiler takes several at once.
bool inside(int64_t count, const int64_t* index, int64_t rows) {
    const uint64_t last = static_cast<uint64_t>(rows) - 1;
    uint64_t signs = rows > 0 || count == 0 ? 0 : ~uint64_t(0);
    for (int64_t n = 0; n < count; ++n) {
        const uint64_t i = static_cast<uint64_t>(index[n]);
        signs |= i | (last - i);
    }
    return signs >> 63 == 0;
}

}  // namespace

void check_index(const char* kind, int64_t edges, const int64_t* index, int64_t rows) {
    if (inside(edges, index, rows)) return;
    for (int64_t e = 0; e < edges; ++e)
        if (index[e] < 0 || index[e] >= rows)
            throw std::out_of_range(std::string(kind) + " index out of range: edge " + std::to_string(e) + " has " +
                                    std::to_string(index[e]) + ", there are " + std::to_string(rows) + " rows.");
}

void plan(int64_t edges, const int64_t* sender, const int64_t* receiver, int64_t senders, int64_t receivers,
          int64_t* ptr, int64_t* order) {
    check_index("sender", edges, sender, senders);
    check_index("receiver", edges, receiver, receivers);
    std::fill_n(ptr, receivers + 1, int64_t(0));
    for (int64_t e = 0; e < edges; ++e) ++ptr[receiver[e] + 1];
    for (int64_t n = 0; n < receivers; ++n) ptr[n + 1] += ptr[n];
    for (int64_t e = 0; e < edges; ++e) order[ptr[receiver[e]]++] = e;
    for (int64_t n = receivers; n > 0; --n) ptr[n] = ptr[n - 1];
    ptr[0] = 0;
}

void check_graph(int64_t edges, const int64_t* index, int64_t rows, const int64_t* ptr, const int64_t* order,
                 int64_t receivers) {
    if (index) check_index("sender", edges, index, rows);
    if (!ptr) return;
    bool rising = ptr[0] == 0 && ptr[receivers] == edges;
    for (int64_t n = 0; n < receivers; ++n) rising &= ptr[n] <= ptr[n + 1];
    if (!rising)
        throw std::out_of_range("the plan does not group these edges; build a new Graph when the edges change.");
    if (order && !inside(edges, order, edges))
        throw std::out_of_range("the plan names an edge that does not exist; build a new Graph when the edges change.");
}

}  // namespace eqk
