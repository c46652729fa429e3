// out = sum_k w_k x_k, and its gradients, on CPUs: each tensor is read or written once.

#include "instruction_sets.h"
#include "vectors.h"
#include "workspace.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

constexpr int UNROLL = 4;        // vectors of independent sums
constexpr int64_t BLOCK = 4096;  // elements between two looks at another tensor: of half an L1
constexpr int64_t CACHE = 4 << 20;  // bytes

template <class T>
void forward(const MixedSumForward& args, int threads) {
  constexpr int L = lanes<T>;
  const T* const* xs = reinterpret_cast<const T* const*>(args.xs);
  const auto* weights = static_cast<const Scalar<T>*>(args.weights);
  T* out = static_cast<T*>(args.out);
  const int64_t count = args.count, length = args.length;
  const int64_t blocks = ceil_div(length, BLOCK);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t end = smaller(length, (block + 1) * BLOCK);
    int64_t i = block * BLOCK;
    for (; i + UNROLL * L <= end; i += UNROLL * L) {
      Vector<T> total[UNROLL] = {};
      for (int64_t k = 0; k < count; ++k) {
#pragma GCC unroll 4
        for (int u = 0; u < UNROLL; ++u) total[u] += weights[k] * load(xs[k] + i + u * L);
      }
#pragma GCC unroll 4
      for (int u = 0; u < UNROLL; ++u) store(out + i + u * L, total[u]);
    }
    for (; i < end; i += L) {
      const int64_t n = smaller(L, end - i);
      Vector<T> total = {};
      for (int64_t k = 0; k < count; ++k) total += weights[k] * load(xs[k] + i, n);
      store(out + i, total, n);
    }
  }
}

// Writes dx = w g where dx is given, and returns <g, x> where x is.
template <class T, bool PAST_CACHES>
Scalar<T> gradients(const T* g, const T* x, T* dx, Scalar<T> weight, int64_t length) {
  constexpr int L = lanes<T>;
  Vector<T> sums[UNROLL] = {};
  int64_t i = 0;
  for (; i + UNROLL * L <= length; i += UNROLL * L) {
#pragma GCC unroll 4
    for (int u = 0; u < UNROLL; ++u) {
      const Vector<T> gradient = load(g + i + u * L);
      if (x != nullptr) sums[u] += gradient * load(x + i + u * L);
      if (dx == nullptr) continue;
      if constexpr (PAST_CACHES)
        store_past_caches(dx + i + u * L, weight * gradient);
      else
        store(dx + i + u * L, weight * gradient);
    }
  }
  for (; i < length; i += L) {
    const int64_t n = smaller(L, length - i);
    const Vector<T> gradient = load(g + i, n);
    if (x != nullptr) sums[0] += gradient * load(x + i, n);
    if (dx != nullptr) store(dx + i, weight * gradient, n);
  }
  return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class T, bool PAST_CACHES>
void backward(const MixedSumBackward& args, int threads) {
  const T* grad = static_cast<const T*>(args.grad);
  const T* const* xs = reinterpret_cast<const T* const*>(args.xs);
  T* const* dxs = reinterpret_cast<T* const*>(args.dxs);
  const auto* weights = static_cast<const Scalar<T>*>(args.weights);
  auto* dweights = static_cast<Scalar<T>*>(args.dweights);
  const int64_t count = args.count, length = args.length;
  const int64_t blocks = ceil_div(length, BLOCK);
  const Workspace<Scalar<T>> partials(dweights == nullptr ? 0 : blocks * count);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t start = block * BLOCK, n = smaller(BLOCK, length - start);
    for (int64_t k = 0; k < count; ++k) {
      const T* x = dweights == nullptr ? nullptr : xs[k] + start;
      T* dx = dxs[k] == nullptr ? nullptr : dxs[k] + start;
      if (x == nullptr && dx == nullptr) continue;
      const Scalar<T> sum = gradients<T, PAST_CACHES>(grad + start, x, dx, weights[k], n);
      if (x != nullptr) partials[block * count + k] = sum;
    }
    if constexpr (PAST_CACHES) finish_stores();
  }
  if (dweights == nullptr) return;
  for (int64_t k = 0; k < count; ++k) {
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += partials[block * count + k];
    dweights[k] = static_cast<Scalar<T>>(total);
  }
}

// Gradients that no second level of cache could hold go past it: memory is not read to be written.
template <class T>
void backward(const MixedSumBackward& args, int threads) {
  bool aligned = true;
  for (int64_t k = 0; k < args.count; ++k)
    aligned = aligned && reinterpret_cast<uintptr_t>(args.dxs[k]) % sizeof(Vector<T>) == 0;
  if (aligned && args.count * args.length * int64_t(sizeof(T)) > CACHE)
    backward<T, true>(args, threads);
  else
    backward<T, false>(args, threads);
}

}  // namespace

void mixed_sum_forward(const MixedSumForward& args, int threads) {
  threads = threads_for(args.length * args.count / STREAMED, threads);
  for_dtype(args.dtype, [&](auto value) { forward<decltype(value)>(args, threads); });
}

void mixed_sum_backward(const MixedSumBackward& args, int threads) {
  threads = threads_for(args.length * args.count / STREAMED, threads);
  for_dtype(args.dtype, [&](auto value) { backward<decltype(value)>(args, threads); });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
