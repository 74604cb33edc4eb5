// The rate at which threads stream memory: what shares of the roofline are measured against.
#pragma once

namespace eqk {

// Bytes a second of a triad a = b + s c on arrays of 64 MB, far larger than a core's share of the caches: 3 arrays are
// counted, the line that a store fetches first is not. Best of five runs; takes about 0.3 s.
double memory_bandwidth(int threads);

}  // namespace eqk
