// The second stage of sums and moments: what blocks have left, added up in order.
//
// A block has PARTS warps for WARP columns side by side, and a thread takes every PARTS-th number
// of its column.
#pragma once

#include "launch.cuh"

namespace ssfnas {
namespace cuda {

// The sum of what the threads of a column have, in order, in each of them. `memory` has room for a
// number of each thread.
template <int PARTS>
__device__ inline double sum_of_parts(double value, double* memory) {
  memory[threadIdx.x] = value;
  __syncthreads();
  double sum = 0;
  for (int part = 0; part < PARTS; ++part) sum += memory[part * WARP + threadIdx.x % WARP];
  __syncthreads();
  return sum;
}

// Mean and variance of a column from those of `sets`: count(i) values with mean means[i stride] and
// squares[i stride] as sum of squared deviations. By the formula of Chan, Golub and LeVeque (1983):
//   mean = sum n_i m_i / n,  var = sum (q_i + n_i (m_i - mean)^2) / n,  n = sum n_i = `all`.
// Called by all threads of a block; `live` is whether there is such a column.
template <int PARTS, class S, class Count>
__device__ inline void merge_moments(bool live, const S* means, const S* squares, int64_t stride,
                                     int64_t sets, Count count, double all, double* memory, S* mean,
                                     S* var) {
  const int part = threadIdx.x / WARP;
  double sum = 0;
  if (live)
    for (int64_t i = part; i < sets; i += PARTS) sum += means[i * stride] * count(i);
  const double center = sum_of_parts<PARTS>(sum, memory) / all;
  sum = 0;
  if (live)
    for (int64_t i = part; i < sets; i += PARTS) {
      const double shift = means[i * stride] - center;
      sum += squares[i * stride] + shift * shift * count(i);
    }
  sum = sum_of_parts<PARTS>(sum, memory);
  if (part != 0 || !live) return;
  *mean = static_cast<S>(center);
  *var = static_cast<S>(sum / all);
}

}  // namespace cuda
}  // namespace ssfnas
