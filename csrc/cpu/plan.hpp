// Grouping the edges of a graph by receiver.
#pragma once

#include <cstdint>

namespace eqk {

// ptr (receivers + 1), order (edges): order[ptr[n] .. ptr[n+1]) are the edges of receiver n, ascending.
// Throws std::out_of_range for an index outside [0, senders) or [0, receivers).
void plan(int64_t edges, const int64_t* sender, const int64_t* receiver, int64_t senders, int64_t receivers,
          int64_t* ptr, int64_t* order);

// Whether index (edges) is in [0, rows). Throws std::out_of_range.
void check_index(const char* kind, int64_t edges, const int64_t* index, int64_t rows);

// Whether a call's graph stays inside its arrays: index (edges) in [0, rows), ptr rising from 0 to edges, order in
// [0, edges); null pointers are skipped. Throws std::out_of_range.
void check_graph(int64_t edges, const int64_t* index, int64_t rows, const int64_t* ptr, const int64_t* order,
                 int64_t receivers);

}  // namespace eqk
