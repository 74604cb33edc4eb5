// What PaiNN's passes hold: rows of atoms and edges, the scratch of a thread; and their products with weights.
#pragma once

#include <omp.h>

#include <array>

#include "buffer.hpp"
#include "painn_nodes.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t ATOM_BLOCK = 32;

// Columns of the products of a pass without tangents: of a layer 14 P forward, a third of phi or of a less in the first
// and the last, and 8 P back, without those of phi in the first; P and H of the read-out.
template <class T>
PainnKept painn_kept(const PainnSizes& s) {
    const int64_t P = round_up<T>(s.channels), H = round_up<T>(s.hidden);
    return {ATOM_BLOCK, (22 * s.layers - 3) * P + H};
}

template <class T, bool D>
class PainnState {
   public:
    struct Layer {
        Rows<T> q, mu, phi1, phi, x, mid, vu, hidden, a;
    };
    // What a thread needs beside; `ga` and so on are used where the gradients of weights do not keep these rows.
    struct Scratch {
        EdgeBlock<T, D> edges;
        Buffer<T> room, rows;
        Rows<T> s, mid, ga, gs, gx, gvu, gphi;
        explicit Scratch(const PainnState& p) : edges(p.m_.K, 3 * p.P_), room(3 * round_up<T>(p.m_.K)) {
            const int64_t size = carve(p, nullptr);
            rows = Buffer<T>(size);
            carve(p, rows.data());
        }
        int64_t carve(const PainnState& p, T* base) {
            Carver<T> c{base};
            const auto rows_of = [&](int64_t width) {
                return Rows<T>{c.take(ATOM_BLOCK * width * (1 + D)), width, ATOM_BLOCK * width};
            };
            s = rows_of(std::max(p.P_, p.m_.H)), mid = rows_of(3 * p.P_), ga = rows_of(3 * p.P_), gs = rows_of(p.P_);
            gx = rows_of(2 * p.P_), gvu = rows_of(6 * p.P_), gphi = rows_of(3 * p.P_);
            return c.used;
        }
    };

    template <class F>
    void blocks_of(int64_t count, int64_t size, const F& f) {
        const int64_t blocks = (count + size - 1) / size;
        if (threads_ == 1) {
            for (int64_t b = 0; b < blocks; ++b) f(b * size, std::min(count, (b + 1) * size), scratch_[0]);
            return;
        }
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
        for (int64_t b = 0; b < blocks; ++b)
            f(b * size, std::min(count, (b + 1) * size), scratch_[omp_get_thread_num()]);
    }
    template <class F>
    void blocks(const F& f) {
        blocks_of(N_, ATOM_BLOCK, f);
    }
    static Rows<T> local(Rows<T> rows, int64_t first) {
        rows.first = first;
        return rows;
    }
    // C = A B + bias, or C += A B, for a block of atoms. Of few atoms, one block, the pass without tangents keeps the
    // values of its products one after another, and the pass with tangents takes them: it has the same products, then
    // those before the first message.
    void multiply_rows(int64_t begin, int64_t end, Rows<T> a, const Matrix<T>& b, int64_t k, int64_t n, const T* bias,
                       bool add, Rows<T> c, int64_t repeat = 1) {
        const int64_t rows = (end - begin) * repeat, row = c.width / repeat;
        const bool keeps = rows * n <= kept_left_;
        T* const values = c[begin];
        if (D && keeps)
            for (int64_t r = 0; r < rows; ++r) std::copy_n(kept_ + r * n, n, values + r * row);
        multiply<T, D>(begin, end, a, b, k, n, bias, add, c, repeat, D && keeps);
        if (!D && keeps)
            for (int64_t r = 0; r < rows; ++r) std::copy_n(values + r * row, n, kept_ + r * n);
        if (keeps) kept_ += rows * n, kept_left_ -= rows * n;
    }

    int64_t thirds(int64_t layer) const { return layer == 0 ? 2 : 3; }               // of phi: no vectors at the start
    int64_t updated(int64_t layer) const { return layer + 1 == s_.layers ? 2 : 3; }  // of a: no vectors at the end

   protected:
    PainnState(const PainnSizes& s, const PainnModel<T>& m, const PainnArgs<T>& a)
        : s_(s),
          a_(a),
          m_(m),
          N_(a.atoms),
          P_(m.P),
          geometry_(!D || a.d_vec),
          layers_(s.layers),
          threads_(N_ <= ATOM_BLOCK ? 1 : a.threads),
          kept_(a.kept) {
        if (kept_) kept_left_ = N_ * painn_kept<T>(s).each;
        memory_ = Buffer<T>(carve(nullptr));
        carve(memory_.data());
        for (int n = 0; n < threads_; ++n) scratch_.emplace_back(*this);
    }

    const PainnSizes& s_;
    const PainnArgs<T>& a_;
    const PainnModel<T>& m_;
    const int64_t N_, P_;
    const bool geometry_;  // whether gradients by the edge vectors are wanted
    int current_ = 0;      // which of gq_ and gmu_ holds the gradients by the rows that a layer gave
    std::vector<Layer> layers_;
    Rows<T> last_, read_, gread_, ga_, gs_, gvu_, gphi_, gphi1_, length_, unit_, g_length_, g_unit_, jet_;
    std::array<Rows<T>, 2> gq_, gmu_;

   private:
    int threads_;
    T* kept_;
    int64_t kept_left_ = 0;
    Buffer<T> memory_;
    std::vector<Scratch> scratch_;

    int64_t carve(T* base) {
        Carver<T> c{base};
        const auto rows = [&](int64_t count, int64_t width, bool kept = true) {
            return kept ? Rows<T>{c.take(count * width * (1 + D)), width, count * width} : Rows<T>{};
        };
        for (int64_t l = 0; l < s_.layers; ++l) {
            Layer& y = layers_[l];
            y.q = rows(N_, P_), y.mu = rows(N_, 3 * P_, l > 0), y.phi1 = rows(N_, P_), y.phi = rows(N_, 3 * P_);
            y.x = rows(N_, 2 * P_), y.mid = rows(N_, 3 * P_, D), y.vu = rows(N_, 6 * P_);
            y.hidden = rows(N_, P_), y.a = rows(N_, 3 * P_);
        }
        last_ = rows(N_, P_), read_ = rows(N_, m_.H);
        for (int n = 0; n < 2; ++n) gq_[n] = rows(N_, P_), gmu_[n] = rows(N_, 3 * P_);
        gread_ = rows(N_, m_.H, D), ga_ = rows(N_, 3 * P_, D), gs_ = rows(N_, P_, D), gvu_ = rows(N_, 6 * P_, D);
        gphi_ = rows(N_, 3 * P_, D), gphi1_ = rows(N_, P_, D);
        length_ = rows(a_.edges, 1), unit_ = rows(a_.edges, 3);
        g_length_ = rows(a_.edges, 1), g_unit_ = rows(a_.edges, 3);
        jet_ = Rows<T>{c.take(a_.edges * (2 + D) * m_.K), (2 + D) * m_.K, 0};
        return c.used;
    }
};

}  // namespace EQK_TARGET
}  // namespace eqk
