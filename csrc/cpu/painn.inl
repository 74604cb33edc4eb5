// PaiNN's passes over a graph: forward, then backward, in blocks of atoms whose rows stay in the cache between steps.
// An atom belongs to one thread, which sums its edges in one order: in the message those it receives, in the backward
// pass those it sends. Gradients of weights are sums over fixed parts. So results have the same bits on any number of
// threads.
#include "painn_state.inl"

namespace eqk {
namespace EQK_TARGET {

constexpr int64_t PARTS = 16;

template <class T, bool D>
class Painn : PainnState<T, D> {
    using S = PainnState<T, D>;
    using S::blocks, S::blocks_of, S::local, S::multiply_rows, S::thirds, S::updated;
    using S::last_, S::read_, S::gread_, S::ga_, S::gs_, S::gvu_, S::gphi_, S::gphi1_;
    using S::length_, S::unit_, S::g_length_, S::g_unit_, S::jet_;
    using S::s_, S::a_, S::m_, S::N_, S::P_, S::geometry_, S::current_, S::layers_, S::gq_, S::gmu_;
    using typename S::Layer, typename S::Scratch;

   public:
    Painn(const PainnSizes& s, const PainnModel<T>& m, const PainnArgs<T>& a) : S(s, m, a) {}

    void run() {
        blocks_of(a_.edges, 256, [&](int64_t begin, int64_t end, Scratch& t) {
            for (int64_t e = begin; e < end; ++e) {
                T h[3];
                if constexpr (D) direction(e, h);
                geometry<T, D>(s_, m_.centres, e, a_.vec, h, length_, unit_, jet_, t.room.data());
            }
        });
        for (int64_t l = 0; l < s_.layers; ++l) {
            blocks([&](int64_t begin, int64_t end, Scratch& t) { features(l, begin, end, t); });
            blocks([&](int64_t begin, int64_t end, Scratch& t) { interact(l, begin, end, t); });
        }
        blocks([&](int64_t begin, int64_t end, Scratch& t) { read_out(begin, end, t); });
        if (D && a_.d_weights) gradients_.emplace_back(s_, m_, a_.d_weights), read_out_gradients();
        if (geometry_) {
            std::fill_n(g_length_.p, a_.edges * (1 + D), T(0));
            std::fill_n(g_unit_.p, 3 * a_.edges * (1 + D), T(0));
        }
        for (int64_t l = s_.layers - 1; l >= 0; --l) {
            blocks([&](int64_t begin, int64_t end, Scratch& t) { update_backward_of(l, begin, end, t); });
            send_back(l);
            if (D && a_.d_weights) weight_gradients(l);
            current_ = 1 - current_;
        }
        blocks_of(geometry_ ? a_.edges : 0, 256, [&](int64_t begin, int64_t end, Scratch&) {
            for (int64_t e = begin; e < end; ++e)
                geometry_backward<T, D>(e, length_, unit_, g_length_, g_unit_, D ? nullptr : a_.g, a_.d_vec);
        });
        if (!D && a_.forces) blocks([&](int64_t begin, int64_t end, Scratch&) { forces(begin, end); });
        if (D && a_.d_weights) {
            PainnGradients<T>& g = gradients_[0];
            for (int64_t n = 0; n < N_; ++n) {
                const Rows<T>& gq = gq_[current_];
                add_rows_of<T>(1, gq[n] + gq.half, 0, P_, g.embedding + a_.species[n] * P_);
            }
            g.unpack(s_, m_);
        }
    }

   private:
    // The tangent of an edge's vector: the cotangent of its g.
    void direction(int64_t e, T* h) const {
        for (int x = 0; x < 3; ++x) {
            h[x] = a_.d_g ? a_.d_g[3 * e + x] : T(0);
            if (a_.d_forces) h[x] += a_.d_forces[3 * a_.receiver[e] + x] - a_.d_forces[3 * a_.sender[e] + x];
        }
    }

    void forces(int64_t begin, int64_t end) const {
        for (int64_t n = begin; n < end; ++n) {
            T f[3] = {};
            for (int64_t at = a_.receiver_ptr[n]; at < a_.receiver_ptr[n + 1]; ++at)
                for (int x = 0; x < 3; ++x) f[x] += a_.g[3 * a_.receiver_order[at] + x];
            for (int64_t at = a_.sender_ptr[n]; at < a_.sender_ptr[n + 1]; ++at)
                for (int x = 0; x < 3; ++x) f[x] -= a_.g[3 * a_.sender_order[at] + x];
            std::copy_n(f, 3, a_.forces + 3 * n);
        }
    }

    // phi of a block of atoms.
    void features(int64_t l, int64_t begin, int64_t end, Scratch& t) {
        const auto& w = m_.layers[l];
        const Layer& y = layers_[l];
        if (l == 0)
            for (int64_t n = begin; n < end; ++n) {
                std::copy_n(m_.embedding + a_.species[n] * P_, P_, y.q[n]);
                if (D) std::fill_n(y.q[n] + y.q.half, P_, T(0));
            }
        const Rows<T> s = local({t.s.p, P_, ATOM_BLOCK * P_}, begin);
        multiply_rows(begin, end, y.q, w.phi1, P_, P_, w.phi1_bias, false, y.phi1);
        for (int64_t n = begin; n < end; ++n) silu_row<T, D>(P_, y.phi1[n], y.phi1.half, s[n], s.half);
        multiply_rows(begin, end, s, w.phi2, P_, thirds(l) * P_, w.phi2_bias, false, y.phi);
    }

    // Messages to a block of atoms, and their update.
    void interact(int64_t l, int64_t begin, int64_t end, Scratch& t) {
        const auto& w = m_.layers[l];
        const Layer& y = layers_[l];
        const bool more = l + 1 < s_.layers;
        const Rows<T> mid = D ? y.mid : local(t.mid, begin), s = local({t.s.p, P_, ATOM_BLOCK * P_}, begin);
        for (int64_t n = begin; n < end; ++n)
            for (int64_t half = 0; half <= D; ++half) {
                std::copy_n(y.q[n] + half * y.q.half, P_, y.x[n] + half * y.x.half);
                if (l > 0)
                    std::copy_n(y.mu[n] + half * y.mu.half, 3 * P_, mid[n] + half * mid.half);
                else
                    std::fill_n(mid[n] + half * mid.half, 3 * P_, T(0));
            }
        const Rows<T> filter = t.edges.filter_rows(0);
        const int64_t last = a_.receiver_ptr[end];
        for (int64_t at = a_.receiver_ptr[begin]; at < last; at += EDGE_BLOCK) {
            const int64_t count = std::min(EDGE_BLOCK, last - at), *edges = a_.receiver_order + at;
            t.edges.form(w.filter, edges, count, 1, thirds(l) * P_, length_, jet_);
            for (int64_t e = 0; e < count; ++e) {
                const int64_t j = a_.sender[edges[e]], i = a_.receiver[edges[e]];
                message<T, D>(P_, filter[e], filter.half, y.phi[j], y.phi.half, l > 0 ? y.mu[j] : nullptr, y.mu.half,
                              Unit<T, D>(unit_, edges[e]), y.x[i], y.x.half, mid[i], mid.half);
            }
        }
        multiply_rows(begin, end, mid, w.mix, P_, 2 * P_, nullptr, false, y.vu, 3);
        for (int64_t n = begin; n < end; ++n)
            lengths<T, D>(P_, T(s_.epsilon), y.vu[n], y.vu.half, y.x[n] + P_, y.x.half);
        multiply_rows(begin, end, y.x, w.update1, 2 * P_, P_, w.update1_bias, false, y.hidden);
        for (int64_t n = begin; n < end; ++n) silu_row<T, D>(P_, y.hidden[n], y.hidden.half, s[n], s.half);
        multiply_rows(begin, end, s, w.update2, P_, updated(l) * P_, w.update2_bias, false, y.a);
        const Rows<T> q = more ? layers_[l + 1].q : last_, mu = more ? layers_[l + 1].mu : Rows<T>{};
        for (int64_t n = begin; n < end; ++n)
            update<T, D>(P_, y.a[n], y.a.half, y.vu[n], y.vu.half, y.x[n], y.x.half, mid[n], mid.half, q[n], q.half,
                         more ? mu[n] : nullptr, mu.half);
    }

    // Atomic energies, and the gradient by the last q.
    void read_out(int64_t begin, int64_t end, Scratch& t) {
        const int64_t H = m_.H;
        const Rows<T> g = D ? gread_ : local({t.s.p, H, ATOM_BLOCK * H}, begin);
        multiply_rows(begin, end, last_, m_.readout, P_, H, m_.readout_bias, false, read_);
        for (int64_t n = begin; n < end; ++n) {
            const Num<T, D> seed = fixed<T, D>(T(1), D && a_.d_energy ? a_.d_energy[n] : T(0));
            Vec<T> energy{};
            for (int64_t c = 0; c < H; c += lanes<T>) {
                const Num<T, D> x = get<T, D>(read_[n] + c, read_.half);
                if (!D) energy += silu(x).v * load(m_.last + c);
                Num<T, D> w = fixed<T, D>(0, 0);
                w.v = load(m_.last + c);
                put(g[n] + c, g.half, seed * w * silu_slope(x));
            }
            if (!D) a_.energy[n] = sum<T>(energy) + m_.last_bias[0];
        }
        multiply_rows(begin, end, g, m_.readout_t, H, P_, nullptr, false, gq_[current_]);
    }

    // From the gradients by q and mu after a layer to those between its message and its update, in place.
    void update_backward_of(int64_t l, int64_t begin, int64_t end, Scratch& t) {
        const auto& w = m_.layers[l];
        const Layer& y = layers_[l];
        const bool more = l + 1 < s_.layers;
        const Rows<T>&gq = gq_[current_], &gmu = gmu_[current_];
        const Rows<T> ga = D ? ga_ : local(t.ga, begin), gs = D ? gs_ : local(t.gs, begin), gx = local(t.gx, begin);
        const Rows<T> gvu = D ? gvu_ : local(t.gvu, begin);
        for (int64_t n = begin; n < end; ++n)
            update_backward<T, D>(P_, y.a[n], y.a.half, y.vu[n], y.vu.half, gq[n], gq.half, more ? gmu[n] : nullptr,
                                  gmu.half, ga[n], ga.half, gvu[n], gvu.half);
        multiply_rows(begin, end, ga, w.update2_t, updated(l) * P_, P_, nullptr, false, gs);
        for (int64_t n = begin; n < end; ++n) silu_backward<T, D>(P_, y.hidden[n], y.hidden.half, gs[n], gs.half);
        multiply_rows(begin, end, gs, w.update1_t, P_, 2 * P_, nullptr, false, gx);
        for (int64_t n = begin; n < end; ++n) {
            lengths_backward<T, D>(P_, y.vu[n], y.vu.half, y.x[n] + P_, y.x.half, gx[n] + P_, gx.half, gvu[n],
                                   gvu.half);
            for (int64_t half = 0; half <= D; ++half)
                for (int64_t c = 0; c < P_; ++c) gq[n][half * gq.half + c] += gx[n][half * gx.half + c];
        }
        multiply_rows(begin, end, gvu, w.mix_t, 2 * P_, P_, nullptr, more, gmu, 3);
    }

    // The message's backward pass, by senders, and that of phi. Fixed parts of the senders keep their own sums for the
    // filters' gradient.
    void send_back(int64_t l) {
        const bool weights = D && a_.d_weights;
        if (!weights) {
            blocks([&](int64_t begin, int64_t end, Scratch& t) { send_back_block(l, begin, end, t, nullptr); });
            return;
        }
        T* const total = gradients_[0].layers[l].filter;
        const int64_t size = m_.K * 3 * P_, parts = std::min(PARTS, (N_ + ATOM_BLOCK - 1) / ATOM_BLOCK);
        const Buffer<T> sums((parts - 1) * size);  // of all parts but the first
        std::fill_n(sums.data(), (parts - 1) * size, T(0));
        blocks_of(parts, 1, [&](int64_t part, int64_t, Scratch& t) {
            const int64_t first = N_ * part / parts, last = N_ * (part + 1) / parts;
            T* const sum = part == 0 ? total : sums.data() + (part - 1) * size;
            for (int64_t begin = first; begin < last; begin += ATOM_BLOCK)
                send_back_block(l, begin, std::min(last, begin + ATOM_BLOCK), t, sum);
        });
        for (int64_t part = 1; part < parts; ++part)
            for (int64_t c = 0; c < size; ++c) total[c] += sums[(part - 1) * size + c];
    }

    void send_back_block(int64_t l, int64_t begin, int64_t end, Scratch& t, T* filter_gradient) {
        const auto& w = m_.layers[l];
        const Layer& y = layers_[l];
        const bool vectors = l > 0, inner = vectors || D;  // whether anything before this layer wants a gradient
        const int64_t n_columns = thirds(l) * P_;
        const Rows<T>&gq = gq_[current_], &gmu = gmu_[current_], &to_q = gq_[1 - current_], &to_mu = gmu_[1 - current_];
        const Rows<T> gphi = D ? gphi_ : local(t.gphi, begin), gphi1 = D ? gphi1_ : local(t.gs, begin);
        const Rows<T> filter = t.edges.filter_rows(0), slope = t.edges.filter_rows(1), product = t.edges.product_rows();
        for (int64_t n = begin; inner && n < end; ++n)
            for (int64_t half = 0; half <= D; ++half) {
                std::fill_n(gphi[n] + half * gphi.half, 3 * P_, T(0));
                std::copy_n(gq[n] + half * gq.half, P_, to_q[n] + half * to_q.half);
                std::copy_n(gmu[n] + half * gmu.half, 3 * P_, to_mu[n] + half * to_mu.half);
            }
        const int64_t last = a_.sender_ptr[end];
        for (int64_t at = a_.sender_ptr[begin]; at < last; at += EDGE_BLOCK) {
            const int64_t count = std::min(EDGE_BLOCK, last - at), *edges = a_.sender_order + at;
            t.edges.form(w.filter, edges, count, geometry_ ? 2 : 1, n_columns, length_, jet_);
            for (int64_t e = 0; e < count; ++e) {
                const int64_t edge = edges[e], j = a_.sender[edge], i = a_.receiver[edge];
                const MessageBackward<T> m{filter[e],
                                           slope[e],
                                           filter.half,
                                           y.phi[j],
                                           vectors ? y.mu[j] : nullptr,
                                           y.phi.half,
                                           y.mu.half,
                                           gq[i],
                                           gmu[i],
                                           gq.half,
                                           gmu.half,
                                           inner ? gphi[j] : nullptr,
                                           inner ? to_mu[j] : nullptr,
                                           filter_gradient ? product[e] : nullptr,
                                           gphi.half,
                                           to_mu.half};
                const Unit<T, D> unit(unit_, edge);
                if constexpr (D) {
                    if (!geometry_) {
                        message_backward<T, D, false>(P_, m, unit, nullptr);
                        continue;
                    }
                }
                T sums[8];
                message_backward<T, D, true>(P_, m, unit, sums);
                for (int64_t half = 0; half <= D; ++half) {
                    g_length_[edge][half * g_length_.half] += sums[4 * half];
                    for (int x = 0; x < 3; ++x) g_unit_[edge][half * g_unit_.half + x] += sums[4 * half + 1 + x];
                }
            }
            if (filter_gradient) {
                const Rows<T> radial = t.edges.radial_rows(0);
                outer_tangent<T>(count, radial.p, radial.half, m_.K, m_.K, product.p, product.half, 3 * P_, n_columns,
                                 true, filter_gradient, 3 * P_);
            }
        }
        if (!inner) return;
        multiply_rows(begin, end, gphi, w.phi2_t, n_columns, P_, nullptr, false, gphi1);
        for (int64_t n = begin; n < end; ++n) silu_backward<T, D>(P_, y.phi1[n], y.phi1.half, gphi1[n], gphi1.half);
        multiply_rows(begin, end, gphi1, w.phi1_t, P_, P_, nullptr, true, to_q);
    }

    // g^T x over all atoms, for a matrix (out, in); each thread takes rows of it.
    void outer_rows(Rows<T> g, int64_t out, Rows<T> x, int64_t in, T* to, int64_t to_row, int64_t repeat = 1) {
        constexpr int64_t step = 4 * TILE_ROWS;
        blocks_of((out + step - 1) / step, 1, [&](int64_t part, int64_t, Scratch&) {
            const int64_t first = part * step, count = std::min(step, out - first);
            outer_tangent<T>(N_ * repeat, g.p + first, g.half, g.width / repeat, count, x.p, x.half, x.width / repeat,
                             in, false, to + first * to_row, to_row);
        });
    }
    // As above for the thirds that g holds, `at` their places; thirds nobody reads have zero gradient.
    void outer_thirds(Rows<T> g, int64_t out, Rows<T> x, T* to, std::array<int64_t, 3> at) {
        for (int64_t n = 0; n < 3; ++n, g.p += P_) {
            T* const place = to + at[n] * P_ * P_;
            if (n * P_ < out)
                outer_rows(g, P_, x, P_, place, P_);
            else
                std::fill_n(place, P_ * P_, T(0));
        }
    }
    Rows<T> activated(Rows<T> x) {
        const Rows<T> y{activated_.data(), x.width, x.half};
        blocks([&](int64_t begin, int64_t end, Scratch&) {
            for (int64_t n = begin; n < end; ++n) silu_row<T, D>(x.width, x[n], x.half, y[n], y.half);
        });
        return y;
    }

    void read_out_gradients() {
        activated_ = Buffer<T>(N_ * std::max(P_, m_.H) * (1 + D));
        PainnGradients<T>& g = gradients_[0];
        const Rows<T> y = activated(read_);
        for (int64_t n = 0; n < N_; ++n) {
            const T c = a_.d_energy ? a_.d_energy[n] : T(0);
            for (int64_t k = 0; k < m_.H; ++k) g.last[k] += y[n][k] * c + y[n][y.half + k];
            g.last_bias[0] += c;
        }
        add_rows_of<T>(N_, gread_.p + gread_.half, m_.H, m_.H, g.readout_bias);
        outer_rows(gread_, m_.H, last_, P_, g.readout, P_);
    }

    void weight_gradients(int64_t l) {
        const auto& g = gradients_[0].layers[l];
        const Layer& y = layers_[l];
        const int64_t out = updated(l) * P_, sent = thirds(l) * P_;
        outer_thirds(ga_, out, activated(y.hidden), g.update2, {0, 2, 1});
        add_rows_of<T>(N_, ga_.p + ga_.half, 3 * P_, out, g.update2_bias);
        outer_rows(gs_, P_, y.x, 2 * P_, g.update1, 2 * P_);
        add_rows_of<T>(N_, gs_.p + gs_.half, P_, P_, g.update1_bias);
        outer_rows(gvu_, 2 * P_, y.mid, P_, g.mix, P_, 3);
        outer_thirds(gphi_, sent, activated(y.phi1), g.phi2, {0, 1, 2});
        add_rows_of<T>(N_, gphi_.p + gphi_.half, 3 * P_, sent, g.phi2_bias);
        outer_rows(gphi1_, P_, y.q, P_, g.phi1, P_);
        add_rows_of<T>(N_, gphi1_.p + gphi1_.half, P_, P_, g.phi1_bias);
    }

    Buffer<T> activated_;
    std::vector<PainnGradients<T>> gradients_;
};

template <class T>
int64_t painn_packed_size(const PainnSizes& s) {
    return PainnModel<T>(s, nullptr, Packing::ALL, nullptr).size;
}
template <class T>
void painn_pack(const PainnSizes& s, const T* const* weights, T* packed) {
    PainnModel<T>(s, packed, Packing::ALL, weights);
}
template <class T, bool D>
void painn_run(const PainnSizes& s, const PainnArgs<T>& a) {
    if (a.packed) {
        const PainnModel<T> packed(s, const_cast<T*>(a.packed), Packing::ALL, nullptr);
        return Painn<T, D>(s, packed, a).run();
    }
    const Packing packing = padded<T>(s) ? Packing::ALL : a.atoms > ATOM_BLOCK ? Packing::FORWARD : Packing::NONE;
    const Buffer<T> room(PainnModel<T>(s, nullptr, packing, a.weights).size);
    const PainnModel<T> model(s, room.data(), packing, a.weights);
    Painn<T, D>(s, model, a).run();
}

extern const PainnKernels painn_kernels;
const PainnKernels painn_kernels{
    {painn_packed_size<float>, painn_kept<float>, painn_pack<float>, painn_run<float, false>, painn_run<float, true>},
    {painn_packed_size<double>, painn_kept<double>, painn_pack<double>, painn_run<double, false>,
     painn_run<double, true>}};

}  // namespace EQK_TARGET
}  // namespace eqk
