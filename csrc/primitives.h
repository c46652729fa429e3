// What every primitive takes: plain pointers and sizes, the same for processors and GPUs.
//
// Tensors are dense and in one layout. K is the number of tensors summed, C that of channels; sums,
// weights, coefficients and statistics are float, and double for double tensors.
#pragma once

#include <cstdint>

namespace ssfnas {

enum class Dtype : int { float32, float64, bfloat16, float16 };

// A tensor [N, C, ...] as memory [outer, channels, inner]; inner is 1 where channels lie next to
// each other (channels_last, or [N, C]).
struct Extent {
  int64_t outer, channels, inner;
};

// out = sum_k w_k x_k
struct MixedSumForward {
  Dtype dtype;
  int64_t count, length;  // K, and the elements of a tensor
  const void* const* xs;  // [K] -> [length]
  const void* weights;    // [K]
  void* out;              // [length]
};

// dx_k = w_k grad,  dw_k = <grad, x_k>
struct MixedSumBackward {
  Dtype dtype;
  int64_t count, length;
  const void* grad;
  const void* const* xs;  // not read where dweights is null
  const void* weights;
  void* const* dxs;  // [K] -> [length], null where unwanted
  void* dweights;    // [K], or null
  void* partials;    // GPUs: room for mixed_sum_partials(...) sums
};

// mean_kc and biased var_kc over outer * inner values
struct NormStatistics {
  Dtype dtype;
  int64_t count;
  Extent extent;
  const void* const* zs;  // [K], null for rows that are not wanted and get 0 and 1
  void* mean;             // [K, C]
  void* var;              // [K, C]
  void* partials;
};

// out = sum_k a_kc z_k + b_c
struct NormSumForward {
  Dtype dtype;
  int64_t count;
  Extent extent;
  const void* const* zs;
  const void* a;  // [K, C]
  const void* b;  // [C]
  void* out;
};

// S0_c = sum g,  S1_kc = rstd_kc sum g (z_k - mean_kc)
struct NormSumReduce {
  Dtype dtype;
  int64_t count;
  Extent extent;
  const void* grad;
  const void* const* zs;
  const void* mean;  // [K, C]
  const void* rstd;  // [K, C]
  void* s0;          // [C]
  void* s1;          // [K, C]
  void* partials;
};

// dz_k = p_kc g + q_kc z_k + r_kc
struct NormSumApply {
  Dtype dtype;
  int64_t count;
  Extent extent;
  const void* grad;
  const void* const* zs;
  const void *p, *q, *r;  // [K, C]
  void* const* dzs;       // [K], null where unwanted
};

#define SSFNAS_PRIMITIVES(APPLY)                  \
  APPLY(mixed_sum_forward, MixedSumForward)       \
  APPLY(mixed_sum_backward, MixedSumBackward)     \
  APPLY(norm_statistics, NormStatistics)          \
  APPLY(norm_sum_forward, NormSumForward)         \
  APPLY(norm_sum_reduce, NormSumReduce)           \
  APPLY(norm_sum_apply, NormSumApply)

}  // namespace ssfnas
