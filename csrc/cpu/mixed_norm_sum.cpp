// Weighted sums with a factor per channel, and their gradients, on CPUs.

#include "instruction_sets.h"
#include "mixed_norm_sum.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

// --- out = sum_k a_kc z_k + b_c

// Of `length` values from `offset` on; factors are `step` apart from a tensor to the next.
// A function of its own: inlined, it was a fifth slower with AVX2, for want of registers.
template <class F, class T>
__attribute__((noinline)) void sum_run(const T* const* zs, int64_t count, int64_t offset,
                                       const Scalar<T>* a, int64_t step, F bias, T* out,
                                       int64_t length) {
  constexpr int L = lanes<T>;
  int64_t i = 0;
  for (; i + UNROLL * L <= length; i += UNROLL * L) {
    Vector<T> total[UNROLL];
#pragma GCC unroll 4
    for (int u = 0; u < UNROLL; ++u) total[u] = F::at(bias, i + u * L);
    for (int64_t k = 0; k < count; ++k) {
      const F factor(a + k * step);
      const T* z = zs[k] + offset + i;
#pragma GCC unroll 4
      for (int u = 0; u < UNROLL; ++u) total[u] += F::at(factor, i + u * L) * load(z + u * L);
    }
#pragma GCC unroll 4
    for (int u = 0; u < UNROLL; ++u) store(out + offset + i + u * L, total[u]);
  }
  for (; i < length; i += L) {
    const int64_t n = smaller(L, length - i);
    Vector<T> total = F::at(bias, i, n);
    for (int64_t k = 0; k < count; ++k)
      total += F::at(F(a + k * step), i, n) * load(zs[k] + offset + i, n);
    store(out + offset + i, total, n);
  }
}

// The same for an image's factors, which scale both coefficients.
template <class T>
void forward_with_factors(const NormSumForward& args, int threads) {
  using S = Scalar<T>;
  const T* const* zs = reinterpret_cast<const T* const*>(args.zs);
  const S* factors = static_cast<const S*>(args.factors);
  T* out = static_cast<T*>(args.out);
  const Layout<T> layout(args.extent, args.images);
  const Repeated<T> a(args.a, args.count, layout), b(args.b, args.count, layout);
  const auto sum = [zs, out, factors, images = args.images, count = args.count,
                    width = layout.width, a = a.row(0), b = b.row(0)](const auto part) {
    using F = typename decltype(part)::Factor;
    const Workspace<S> own((count + 1) * width);
    S* bias = own.at(count * width);
    clear(bias, width);
    for (int64_t k = 0; k < count; ++k) {
      const S factor = factors[k * images + part.image];
      for (int64_t j = 0; j < width; ++j) {
        own[k * width + j] = factor * a[k * width + j];
        bias[j] += factor * b[k * width + j];
      }
    }
    for (int64_t run = 0; run < part.runs(); ++run)
      sum_run(zs, count, part.start(run), own.at(part.channel), width, F(bias + part.channel), out,
              part.length(run));
  };
  layout.for_parts(args.count, threads, sum);
}

template <class T>
void forward(const NormSumForward& args, int threads) {
  if (args.factors != nullptr) return forward_with_factors<T>(args, threads);
  const T* const* zs = reinterpret_cast<const T* const*>(args.zs);
  T* out = static_cast<T*>(args.out);
  const Layout<T> layout(args.extent);
  const Repeated<T> a(args.a, args.count, layout), b(args.b, 1, layout);
  const auto sum = [zs, out, count = args.count, step = layout.width, a = a.row(0),
                    b = b.row(0)](const auto part) {
    using F = typename decltype(part)::Factor;
    const F bias(b + part.channel);
    for (int64_t run = 0; run < part.runs(); ++run)
      sum_run(zs, count, part.start(run), a + part.channel, step, bias, out, part.length(run));
  };
  layout.for_parts(args.count, threads, sum);
}

// --- dz_k = p_kc g + q_kc z_k + r_kc

template <class F, class T>
void apply_run(const T* g, const T* z, F p, F q, F r, T* dz, int64_t length) {
  constexpr int L = lanes<T>;
  int64_t i = 0;
  for (; i + L <= length; i += L)
    store(dz + i, F::at(p, i) * load(g + i) + (F::at(q, i) * load(z + i) + F::at(r, i)));
  if (i < length) {
    const int64_t n = length - i;
    store(dz + i, F::at(p, i, n) * load(g + i, n) + (F::at(q, i, n) * load(z + i, n) +
                                                     F::at(r, i, n)), n);
  }
}

template <class T>
void apply(const NormSumApply& args, int threads) {
  const T* grad = static_cast<const T*>(args.grad);
  const T* const* zs = reinterpret_cast<const T* const*>(args.zs);
  T* const* dzs = reinterpret_cast<T* const*>(args.dzs);
  const Layout<T> layout(args.extent);
  const Repeated<T> p(args.p, args.count, layout), q(args.q, args.count, layout);
  const Repeated<T> r(args.r, args.count, layout);
  const auto add_terms = [grad, zs, dzs, count = args.count, width = layout.width, p = p.row(0),
                          q = q.row(0), r = r.row(0)](const auto part) {
    using F = typename decltype(part)::Factor;
    for (int64_t k = 0; k < count; ++k) {
      const T* z = zs[k];
      T* dz = dzs[k];
      if (dz == nullptr) continue;
      const int64_t row = k * width + part.channel;
      const F of_g(p + row), of_z(q + row), of_one(r + row);
      for (int64_t run = 0; run < part.runs(); ++run) {
        const int64_t i = part.start(run);
        apply_run(grad + i, z + i, of_g, of_z, of_one, dz + i, part.length(run));
      }
    }
  };
  layout.for_parts(args.count, threads, add_terms);
}

}  // namespace

void norm_sum_forward(const NormSumForward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { forward<decltype(value)>(args, threads); });
}

void norm_sum_apply(const NormSumApply& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { apply<decltype(value)>(args, threads); });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
