// The loops of gates, a row and a part at a time: activations of its channels as vectors, then what they multiply.
#include <algorithm>
#include <cmath>

#include "gate.hpp"
#include "numbers.inl"

namespace eqk {
namespace EQK_TARGET {
namespace gates {
namespace {

// f, f' and f'' of one vector.
template <class T>
struct Jet {
    Vec<T> f, slope, bend;
};

template <class T, class F>
EQK_INLINE Vec<T> each(Vec<T> x, F function) {
    for (int n = 0; n < lanes<T>; ++n) x[n] = function(x[n]);
    return x;
}

template <class T>
Jet<T> activated(Activation act, Vec<T> x) {
    const Vec<T> one = spread<T>(1), zero = spread<T>(0);
    switch (act) {
        case Activation::silu: {
            const Vec<T> s = one / (one + exponential<T>(-x)), c = s * (one - s);
            return {x * s, s + x * c, c * (T(2) + x * (one - T(2) * s))};
        }
        case Activation::sigmoid: {
            const Vec<T> s = one / (one + exponential<T>(-x)), c = s * (one - s);
            return {s, c, c * (one - T(2) * s)};
        }
        case Activation::tanh: {
            const Vec<T> t = each<T>(x, [](T a) { return std::tanh(a); }), c = one - t * t;
            return {t, c, T(-2) * t * c};
        }
        case Activation::shifted_softplus: {
            const Vec<T> s = one / (one + exponential<T>(-x));
            const auto softplus = [](T a) { return std::max(a, T(0)) + std::log1p(std::exp(-std::abs(a))); };
            return {each<T>(x, softplus) - T(0.69314718055994530942), s, s * (one - s)};
        }
        case Activation::abs:
            return {x < zero ? -x : x, x < zero ? -one : (x > zero ? one : x), zero};
        default:
            return {x, one, zero};
    }
}

// f, f' and f'' of a part's channels in a row, each times the part's scale.
template <class T>
struct Row {
    std::vector<T> f, slope, bend;

    explicit Row(const Gate& gate) {
        int64_t mul = 0;
        for (const GatePart& p : gate.parts) mul = std::max(mul, p.mul);
        for (std::vector<T>* values : {&f, &slope, &bend}) values->resize(mul + lanes<T>);
    }

    void activate(const GatePart& p, const T* x) {
        constexpr int L = lanes<T>;
        const T scale = static_cast<T>(p.scale);
        for (int64_t c = 0; c < p.mul; c += L) {
            T rest[L] = {};
            const T* from = x + p.start + c;
            if (c + L > p.mul) from = std::copy(from, x + p.start + p.mul, rest), from = rest;
            const Jet<T> jet = activated<T>(p.act, load(from));
            store(&f[c], jet.f * scale);
            store(&slope[c], jet.slope * scale);
            store(&bend[c], jet.bend * scale);
        }
    }
};

// D: the part's dim, 0 for scalars; -1: any.
template <class T, int D>
void part(const GatePart& p, const Row<T>& a, const T* x, const T* z, const T* h, T* out, T* dx, T* dz) {
    const int64_t dim = D < 0 ? p.dim : D, reads = std::max<int64_t>(dim, 1);
    for (int64_t c = 0; c < p.mul; ++c) {
        const int64_t s = p.start + c, t = p.gated + c * dim, o = p.out + c * reads;
        if (out)
            for (int64_t k = 0; k < reads; ++k) out[o + k] = dim ? a.f[c] * x[t + k] : a.f[c];
        if (dx) {
            T inner = dim ? T(0) : z[o], along = 0;
            for (int64_t k = 0; k < dim; ++k) inner += z[o + k] * x[t + k];
            if (h)
                for (int64_t k = 0; k < dim; ++k) along += z[o + k] * h[t + k];
            dx[s] = h ? h[s] * a.bend[c] * inner + a.slope[c] * along : a.slope[c] * inner;
            const T factor = h ? h[s] * a.slope[c] : a.f[c];
            for (int64_t k = 0; k < dim; ++k) dx[t + k] = z[o + k] * factor;
        }
        if (dz) {
            const T along = h[s] * a.slope[c];
            for (int64_t k = 0; k < reads; ++k) dz[o + k] = dim ? along * x[t + k] + a.f[c] * h[t + k] : along;
        }
    }
}

template <class T>
void part(const GatePart& p, const Row<T>& a, const T* x, const T* z, const T* h, T* out, T* dx, T* dz) {
    switch (p.dim) {
        case 0:
            return part<T, 0>(p, a, x, z, h, out, dx, dz);
        case 3:
            return part<T, 3>(p, a, x, z, h, out, dx, dz);
        case 5:
            return part<T, 5>(p, a, x, z, h, out, dx, dz);
        case 7:
            return part<T, 7>(p, a, x, z, h, out, dx, dz);
        default:
            return part<T, -1>(p, a, x, z, h, out, dx, dz);
    }
}

template <class T>
void rows(const Gate& gate, const GateArgs<T>& at, int64_t first, int64_t last) {
    Row<T> a(gate);
    const auto row = [](auto* p, int64_t n, int64_t columns) { return p ? p + n * columns : nullptr; };
    for (int64_t n = first; n < last; ++n) {
        const T *x = row(at.x, n, gate.columns), *z = row(at.z, n, gate.width), *h = row(at.h, n, gate.columns);
        T *out = row(at.out, n, gate.width), *dx = row(at.dx, n, gate.columns), *dz = row(at.dz, n, gate.width);
        for (const GatePart& p : gate.parts) {
            a.activate(p, x);
            part<T>(p, a, x, z, h, out, dx, dz);
        }
    }
}

template <class T>
void run(const Gate& gate, const GateArgs<T>& at) {
    constexpr int64_t useful = 1 << 14;  // numbers a thread
    const int64_t team = std::min<int64_t>(at.threads, at.rows * gate.columns / useful + 1);
    if (team <= 1) return rows(gate, at, 0, at.rows);
#pragma omp parallel for num_threads(team)
    for (int64_t k = 0; k < team; ++k) rows(gate, at, at.rows * k / team, at.rows * (k + 1) / team);
}

}  // namespace
}  // namespace gates

extern const GateKernels gate_kernels;
const GateKernels gate_kernels{gates::run<float>, gates::run<double>};

}  // namespace EQK_TARGET
}  // namespace eqk
