// The second stage of sums over tiles: of what blocks have left, in an order that never changes.
#pragma once

#include "tiles.cuh"

namespace ssfnas {
namespace cuda {

// So many threads share a column: few columns with many rows wait for memory, one row at a time.
constexpr int FINISH_ROWS = 32;

// to[column] = sum of from[row, column] over rows, in an order that depends on the sizes alone.
template <class S>
__global__ void __launch_bounds__(WARP* FINISH_ROWS)
    sum_rows_kernel(const S* from, S* to, int64_t rows, int64_t columns) {
  SSFNAS_SHARED_MEMORY(memory);
  auto* sums = reinterpret_cast<S*>(memory);
  const int lane = threadIdx.x % WARP, part = threadIdx.x / WARP;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * WARP + lane;
  S total = 0;
  if (column < columns)
    for (int64_t row = part; row < rows; row += FINISH_ROWS) total += from[row * columns + column];
  sums[threadIdx.x] = total;
  __syncthreads();
  if (part != 0 || column >= columns) return;
  for (int p = 1; p < FINISH_ROWS; ++p) total += sums[p * WARP + lane];
  to[column] = total;
}

template <class S>
void sum_rows(const void* from, void* to, int64_t rows, int64_t columns, void* stream) {
  SSFNAS_LAUNCH(sum_rows_kernel<S>, dim3(blocks(ceil_div(columns, WARP))), WARP * FINISH_ROWS,
                WARP * FINISH_ROWS * sizeof(S), stream, static_cast<const S*>(from),
                static_cast<S*>(to), rows, columns);
  check(cudaGetLastError(), "sums over tiles");
}

}  // namespace cuda
}  // namespace ssfnas
