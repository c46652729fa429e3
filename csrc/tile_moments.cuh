// Mean and squared deviations of a tile's results, and of all tiles.
//
// Warps compute both around their own means, from registers; the warps of a tile and then the tiles
// are merged by Chan's formula, in order.
#pragma once

#include "tile_sums.cuh"

namespace ssfnas {
namespace cuda {

// Sums over the lanes of a warp that have the same channels, into to[channel]. As long as a lane
// has several values, it gives half of them away at each step.
template <int N, class S>
__device__ inline void sum_lanes(const S (&values)[N], S* to, int columns, int offset = WARP / 2) {
  if constexpr (N > 1) {
    if (offset >= columns) {
      const bool upper = (threadIdx.x & offset) != 0;
      S half[N / 2];
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        const S given = upper ? values[i] : values[i + N / 2];
        const S kept = upper ? values[i + N / 2] : values[i];
        half[i] = kept + __shfl_xor_sync(0xffffffffu, given, offset);
      }
      sum_lanes<N / 2>(half, to + (upper ? N / 2 : 0), columns, offset / 2);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) to[i] = values[i];
    }
  } else {
    S total = values[0];
    for (; offset >= columns; offset /= 2) total += __shfl_xor_sync(0xffffffffu, total, offset);
    to[0] = total;
  }
}

// One tile's, in shared memory. A team of threads is a warp, or more where that has not all columns.
template <class S>
class TileMoments {
 public:
  static __host__ __device__ int bytes(int threads, int columns, int vec) {
    const int teams = threads / (columns > WARP ? columns : WARP);
    return rounded_up(teams * (2 * columns * vec + 1) * static_cast<int>(sizeof(S)), 16);
  }

  // `live` is how many pixels a thread has, the first ones of its strip.
  __device__ TileMoments(S* memory, const Tiling& t, int vec, int live)
      : width_(t.columns * vec), columns_(t.columns), live_(live) {
    const int size = t.columns > WARP ? t.columns : WARP;
    teams_ = blockDim.x / size;
    team_ = threadIdx.x / size;
    totals_ = memory;
    squares_ = totals_ + teams_ * width_;
    counts_ = squares_ + teams_ * width_;
    count_ = sum_of_lanes(static_cast<S>(live), t.columns);
    counts_[team_] = count_;
  }

  // Called by all threads, without `live` pixels too; `column` is the thread's.
  template <class T, int VEC>
  __device__ void add(const Strip<T, VEC>& z, int column) {
    const int place = team_ * width_ + column * VEC;
    S values[VEC] = {}, center[VEC];
#pragma unroll
    for (int o = 0; o < STRIP; ++o)
#pragma unroll
      for (int i = 0; i < VEC; ++i)
        if (o < live_) values[i] += z[o].v[i];
    sum_lanes<VEC>(values, totals_ + place, columns_);
    __syncwarp();
    load_coefficients(center, totals_ + place);
#pragma unroll
    for (int i = 0; i < VEC; ++i) center[i] /= count_, values[i] = 0;
#pragma unroll
    for (int o = 0; o < STRIP; ++o)
#pragma unroll
      for (int i = 0; i < VEC; ++i) {
        const S deviation = z[o].v[i] - center[i];
        if (o < live_) values[i] += deviation * deviation;
      }
    sum_lanes<VEC>(values, squares_ + place, columns_);
  }

  // After a synchronisation: the tile's mean and squares of each channel, one row apart.
  __device__ void store(S* to, int channels, int64_t row) const {
    S count = 0;
    for (int team = 0; team < teams_; ++team) count += counts_[team];
    for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
      S total = 0, squares = 0;
      for (int team = 0; team < teams_; ++team) total += totals_[team * width_ + channel];
      const S mean = total / count;
      for (int team = 0; team < teams_; ++team) {
        if (counts_[team] == 0) continue;
        const S shift = totals_[team * width_ + channel] / counts_[team] - mean;
        squares += squares_[team * width_ + channel] + counts_[team] * shift * shift;
      }
      to[channel] = mean;
      to[row + channel] = squares;
    }
  }

 private:
  S *totals_, *squares_, *counts_;  // [teams, width] twice, [teams]
  int width_, columns_, live_, teams_, team_;
  S count_;
};

// The sum of what the threads of a column have, in order, in each of them.
__device__ inline double sum_of_parts(double value, double* memory) {
  memory[threadIdx.x] = value;
  __syncthreads();
  double sum = 0;
  for (int part = 0; part < FINISH_ROWS; ++part) sum += memory[part * WARP + threadIdx.x % WARP];
  __syncthreads();
  return sum;
}

// From partials [tiles, 2, columns], a tile's means and squares, mean and variance of each column.
template <class S>
__global__ void __launch_bounds__(WARP* FINISH_ROWS)
    merge_moments_kernel(const S* partials, S* mean, S* var, const Tiling tiling, int64_t columns) {
  SSFNAS_SHARED_MEMORY(memory);
  auto* room = reinterpret_cast<double*>(memory);
  const int part = threadIdx.x / WARP;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x % WARP;
  const auto count = [&](int64_t tile) {
    const Corner corner(tiling, tile);
    return static_cast<double>(min(tiling.rows, tiling.height - corner.y) *
                               min(tiling.across, tiling.width - corner.x));
  };
  const S* means = partials + column;
  const double all = static_cast<double>(tiling.tiles / (tiling.down * tiling.along)) *
                     tiling.height * tiling.width;
  double sum = 0;
  if (column < columns)
    for (int64_t tile = part; tile < tiling.tiles; tile += FINISH_ROWS)
      sum += count(tile) * means[tile * 2 * columns];
  const double center = sum_of_parts(sum, room) / all;
  sum = 0;
  if (column < columns)
    for (int64_t tile = part; tile < tiling.tiles; tile += FINISH_ROWS) {
      const double shift = means[tile * 2 * columns] - center;
      sum += means[(tile * 2 + 1) * columns] + count(tile) * shift * shift;
    }
  sum = sum_of_parts(sum, room);
  if (part != 0 || column >= columns) return;
  mean[column] = static_cast<S>(center);
  var[column] = static_cast<S>(sum / all);
}

template <class S>
void merge_moments(const void* partials, void* mean, void* var, const Tiling& tiling,
                   int64_t columns, void* stream) {
  SSFNAS_LAUNCH(merge_moments_kernel<S>, dim3(blocks(ceil_div(columns, WARP))), WARP * FINISH_ROWS,
                WARP * FINISH_ROWS * sizeof(double), stream, static_cast<const S*>(partials),
                static_cast<S*>(mean), static_cast<S*>(var), tiling, columns);
  check(cudaGetLastError(), "moments of tiles");
}

}  // namespace cuda
}  // namespace ssfnas
