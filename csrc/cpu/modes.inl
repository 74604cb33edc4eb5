// Any connection mode: a block of rows is turned to lanes, every path couples its channels a piece at a time, weighs
// them and goes back, and none of that leaves the cache. Every number is one sum in one order, whatever the threads.
#include <omp.h>

#include <algorithm>

#include "buffer.hpp"
#include "mixing.inl"
#include "modes.hpp"
#include "nodes.inl"
#include "turns.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int WEIGHTS = 2;  // the kind of slots that hold weights

// dw of shared weights, summed over a part of the rows: of a path that mixes (channels, padded channels of z), else a
// vector of BLOCK<T> rows for each channel.
template <class T>
struct WeightSums {
    std::vector<int64_t> of_path{}, of_slot{};
    int64_t size = 0, all = 0;  // of one slot, of all that ask

    WeightSums(const Coupling& p, const CoupleArgs<T>& a) {
        for (const CoupledPath& path : p.paths) {
            of_path.push_back(size);
            if (path.w >= 0) size += path.channels * row(p, path);
        }
        for (size_t slot = 0; slot < a.kinds.size(); ++slot) {
            of_slot.push_back(all);
            if (a.shared_w && a.kinds[slot] == WEIGHTS && a.out[slot]) all += size;
        }
    }

    int64_t row(const Coupling& p, const CoupledPath& path) const {
        return path.mixes ? round_up<T>(p.z[path.out].mul) : BLOCK<T>;
    }

    void finish(const Coupling& p, const T* sums, T* dw) const {
        std::fill_n(dw, p.w_dim, T(0));
        for (size_t n = 0; n < p.paths.size(); ++n) {
            const CoupledPath& path = p.paths[n];
            const int64_t out = p.z[path.out].mul;
            for (int64_t c = 0; path.w >= 0 && c < path.channels; ++c) {
                const T* const from = sums + of_path[n] + c * row(p, path);
                if (path.mixes)
                    std::copy_n(from, out, dw + path.w + c * out);
                else
                    dw[path.w + c] = sum<T>(load(from) + load(from + lanes<T>));
            }
        }
    }
};

// What one thread holds: a block of rows, and what its pieces need.
template <class T>
class CoupleBlock {
   public:
    CoupleBlock(const Coupling& p, const CoupleArgs<T>& a, const WeightSums<T>& sums) : p_(p), a_(a), place_(sums) {
        int64_t coupled = 0, most = 0, factors = 0, out = 0;
        for (const CoupledPath& path : p.paths) {
            const Columns& z = p.z[path.out];
            factors = std::max(factors, path.factors);
            out = std::max(out, round_up<T>(z.mul) * z.dim);
            for (const Piece& piece : path.pieces) {
                most = std::max(most, piece.count);
                coupled = std::max(coupled, round_up<T>(piece.count) * z.dim);
            }
        }
        for (size_t slot = 0; slot < a.kinds.size(); ++slot) {
            const int64_t dim = a.kinds[slot] == WEIGHTS ? 0 : columns(slot);
            in_.emplace_back(a.in[slot] ? dim * BLOCK<T> : 0);
            out_.emplace_back(a.out[slot] ? dim * BLOCK<T> : 0);
        }
        for (Buffer<T>* made : {&a_lanes_, &da_lanes_, &a_rows_, &da_rows_}) *made = Buffer<T>(coupled * BLOCK<T>);
        for (Buffer<T>* made : {&g_rows_, &z_rows_}) *made = Buffer<T>(out * BLOCK<T>);
        for (Buffer<T>* made : {&w_lanes_, &dw_lanes_}) *made = Buffer<T>(most * BLOCK<T>);
        factors_ = Buffer<T>(2 * factors * BLOCK<T>);
    }

    // Rows [first, first + rows), BLOCK<T> at most; dw of shared weights is added to `sums`.
    void run(int64_t first, int64_t rows, T* sums) {
        first_ = first, rows_ = rows, sums_ = sums;
        for (size_t slot = 0; slot < in_.size(); ++slot) {
            const int64_t dim = columns(slot);
            if (in_[slot].size()) rows_to_lanes(rows, a_.in[slot] + first * dim, dim, dim, in_[slot].data(), BLOCK<T>);
            if (out_[slot].size()) std::fill_n(out_[slot].data(), dim * BLOCK<T>, T(0));
        }
        std::vector<bool> stored(in_.size(), false);
        for (const Summands& s : a_.summands)
            if (sum(s, stored[s.w])) stored[s.w] = true;
        for (size_t slot = 0; slot < out_.size(); ++slot) {
            const int64_t dim = columns(slot);
            if (out_[slot].size())
                lanes_to_rows(rows, out_[slot].data(), BLOCK<T>, dim, a_.out[slot] + first * dim, dim);
            else if (a_.out[slot] && !a_.shared_w && !stored[slot])
                std::fill_n(a_.out[slot] + first * dim, rows * dim, T(0));
        }
    }

   private:
    int64_t columns(size_t slot) const { return std::array{p_.x_dim, p_.y_dim, p_.w_dim, p_.z_dim}[a_.kinds[slot]]; }

    Side<T> side(const Columns& segment, int slot) const {
        const Buffer<T>&in = in_[slot], &out = out_[slot];
        const int64_t begin = segment.begin * BLOCK<T>;
        return {in.size() ? in.data() + begin : nullptr, out.size() ? out.data() + begin : nullptr,
                (p_.turn ? segment.dim : 1) * BLOCK<T>, (p_.turn ? 1 : segment.mul) * BLOCK<T>};
    }

    // One of a path for each summand.
    std::vector<Coupler<T>> couplers(const CoupledPath& path, const Summands& s) const {
        std::vector<Coupler<T>> found;
        for (const auto& [x, y] : s.xy) {
            const Side<T> in1 = side(p_.x[path.in1], x), in2 = side(p_.y[path.in2], y);
            found.push_back({path, path.lanes_x ? in2 : in1, path.lanes_x ? in1 : in2, factors_.data()});
        }
        return found;
    }

    template <class F>
    static bool any(const std::vector<Coupler<T>>& couplers, F&& f) {
        return std::any_of(couplers.begin(), couplers.end(), f);
    }

    // Add the derivatives of summands; those by weights of a row are stored, or added to what is. Whether there are.
    bool sum(const Summands& s, bool stored) {
        bool found = false;
        int turned = -1;  // the segment of z that g_rows_ hold
        for (size_t n = 0; n < p_.paths.size(); ++n) {
            const CoupledPath& path = p_.paths[n];
            if (path.w < 0 && !s.fixed) continue;
            const std::vector<Coupler<T>> couplers = this->couplers(path, s);
            Side<T> z = side(p_.z[path.out], s.z);
            const bool weighted = path.w < 0 || a_.in[s.w];
            const bool coupled = any(couplers, [](auto& c) { return c.scalar.v && c.lane.v; });
            const bool back = weighted && z.v && any(couplers, [](auto& c) {
                                  return (c.scalar.d && c.lane.v) || (c.lane.d && c.scalar.v);
                              });
            if (!weighted || !coupled) z.d = nullptr;
            const bool dw = path.w >= 0 && coupled && z.v && a_.out[s.w];
            if (!z.d && !dw && !back) continue;
            found = found || dw;
            if (path.mixes && (dw || back) && turned != path.out) turn_g(path, z), turned = path.out;
            for (const Piece& piece : path.pieces) {
                bool add = false;
                for (const Coupler<T>& c : couplers)
                    if ((z.d || dw) && c.scalar.v && c.lane.v)
                        c.forward(piece, std::exchange(add, true), a_lanes_.data());
                weigh(n, piece, s.w, z, dw, back, stored);
                for (const Coupler<T>& c : couplers)
                    if (back) c.backward(piece, da_lanes_.data());
            }
        }
        return found;
    }

    void turn_g(const CoupledPath& path, const Side<T>& z) {
        const int64_t out = p_.z[path.out].mul;
        const ByRow<T> g{g_rows_.data(), round_up<T>(out)};
        for (size_t k = 0; k < path.there.size(); ++k)
            lanes_to_rows(BLOCK<T>, z.v + k * z.component, z.channel, out, g.p + k * g.step(), g.padded);
    }

    // The piece's coupled channels into z, and dw and their gradients from g.
    void weigh(size_t n, const Piece& piece, int slot, const Side<T>& z, bool dw, bool back, bool stored) {
        const CoupledPath& path = p_.paths[n];
        const int64_t out = p_.z[path.out].mul, padded = round_up<T>(out);
        const int64_t at = path.w + piece.first * (path.mixes ? out : 1) + (a_.shared_w ? 0 : first_ * p_.w_dim);
        const T* const w = path.w >= 0 && a_.in[slot] ? a_.in[slot] + at : nullptr;
        const Weighed<T> s{path,
                           piece,
                           rows_,
                           out,
                           a_lanes_.data(),
                           back ? da_lanes_.data() : nullptr,
                           z,
                           w,
                           a_.shared_w ? 0 : p_.w_dim};
        T* const own = dw && !a_.shared_w ? a_.out[slot] + at : nullptr;
        T* const sums = dw && a_.shared_w
                            ? sums_ + place_.of_slot[slot] + place_.of_path[n] + piece.first * place_.row(p_, path)
                            : nullptr;
        if (path.mixes && a_.shared_w) return mix_shared(s, g_rows_.data(), padded, sums);
        if (path.mixes) {
            const int64_t wide = round_up<T>(piece.count);
            return mix_own(s, ByRow<T>{g_rows_.data(), padded}, ByRow<T>{z_rows_.data(), padded},
                           ByRow<T>{a_rows_.data(), wide}, ByRow<T>{da_rows_.data(), wide}, stored, own);
        }
        if (w && !a_.shared_w) rows_to_lanes(rows_, w, p_.w_dim, piece.count, w_lanes_.data(), BLOCK<T>);
        if (own && stored)
            rows_to_lanes(rows_, own, p_.w_dim, piece.count, dw_lanes_.data(), BLOCK<T>);
        else if (own)
            std::fill_n(dw_lanes_.data(), piece.count * BLOCK<T>, T(0));
        weigh_channels(s, w && !a_.shared_w ? w_lanes_.data() : w, own ? dw_lanes_.data() : sums);
        if (own) lanes_to_rows(rows_, dw_lanes_.data(), BLOCK<T>, piece.count, own, p_.w_dim);
    }

    const Coupling& p_;
    const CoupleArgs<T>& a_;
    const WeightSums<T>& place_;
    int64_t first_ = 0, rows_ = 0;
    T* sums_ = nullptr;
    std::vector<Buffer<T>> in_{}, out_{};                                    // by slot, as lanes
    Buffer<T> a_lanes_{}, da_lanes_{}, factors_{}, w_lanes_{}, dw_lanes_{};  // of a piece
    Buffer<T> a_rows_{}, da_rows_{}, g_rows_{}, z_rows_{};                   // of a piece, of a segment of z
};

// The parts of the rows whose dw are summed apart: the same for every number of threads.
template <class T>
int64_t rows_of_part(int64_t rows, int64_t sums) {
    constexpr int64_t PARTS = 64, BYTES = 1 << 26;
    const int64_t most = std::clamp<int64_t>(BYTES / (std::max<int64_t>(sums, 1) * sizeof(T)), 8, PARTS);
    const int64_t part = std::max<int64_t>((rows + most - 1) / most, sums ? 256 : 128);
    return (part + BLOCK<T> - 1) / BLOCK<T> * BLOCK<T>;
}

constexpr int64_t STRIP = 4096;  // sums that are added up together

template <class T>
void couple(const Coupling& p, const CoupleArgs<T>& a) {
    const WeightSums<T> place(p, a);
    const int64_t part = rows_of_part<T>(a.rows, place.all), parts = (a.rows + part - 1) / part;
    const int threads = static_cast<int>(std::min<int64_t>(std::max<int64_t>(parts, 1), a.threads));
    const Buffer<T> sums(parts * place.all);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        CoupleBlock<T> block(p, a, place);
#pragma omp for schedule(dynamic)
        for (int64_t n = 0; n < parts; ++n) {
            T* const own = sums.data() + n * place.all;
            std::fill_n(own, place.all, T(0));
            const int64_t end = std::min(a.rows, (n + 1) * part);
            for (int64_t row = n * part; row < end; row += BLOCK<T>) block.run(row, std::min(BLOCK<T>, end - row), own);
        }
#pragma omp for
        for (int64_t from = 0; from < place.all; from += STRIP)
            for (int64_t n = 1; n < parts; ++n)
                for (int64_t c = from; c < std::min(from + STRIP, place.all); ++c) sums[c] += sums[n * place.all + c];
    }
    for (size_t slot = 0; slot < a.kinds.size(); ++slot) {
        if (!a.shared_w || a.kinds[slot] != WEIGHTS || !a.out[slot]) continue;
        if (parts)
            place.finish(p, sums.data() + place.of_slot[slot], a.out[slot]);
        else
            std::fill_n(a.out[slot], p.w_dim, T(0));
    }
}

extern const ModeKernels mode_kernels;
const ModeKernels mode_kernels{{couple<float>, turn_rows<float>, outer<float>},
                               {couple<double>, turn_rows<double>, outer<double>}};

}  // namespace EQK_TARGET
}  // namespace eqk
