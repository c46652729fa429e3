// Mean and squared deviations of a tile's results, and of all tiles.
//
// Warps compute both around their own means, from registers; the warps of a tile and then the tiles
// are merged in order, by the formula in moments.cuh.
#pragma once

#include "moments.cuh"
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

// One tile's, in shared memory. A warp group is a warp, or more where a warp has not all
// columns.
template <class S, int VEC>
class TileMoments {
 public:
  static __host__ __device__ int bytes(int threads, int columns) {
    const int groups = threads / group_size(columns);
    return rounded_up(groups * (2 * columns * VEC + 2) * static_cast<int>(sizeof(S)), 16);
  }

  // `live` is how many pixels a thread has, the first ones of its strip.
  __device__ TileMoments(S* memory, const Tiling& tiling, int live)
      : memory_(memory), tiling_(tiling), live_(live) {
    const S count = sum_of_lanes(static_cast<S>(live), tiling.columns);
    counts()[group()] = count, inverses()[group()] = count > 0 ? 1 / count : 0;
    __syncwarp();
  }

  // Called by all threads, without `live` pixels too; `column` is the thread's.
  template <class T>
  __device__ void add(const Strip<T, VEC>& z, int column) {
    const int place = group() * width() + column * VEC;
    S values[VEC] = {}, center[VEC];
#pragma unroll
    for (int o = 0; o < STRIP; ++o)
#pragma unroll
      for (int i = 0; i < VEC; ++i)
        if (o < live_) values[i] += z[o].v[i];
    sum_lanes<VEC>(values, totals() + place, tiling_.columns);
    __syncwarp();
    load_coefficients(center, totals() + place);
    const S inverse = inverses()[group()];
#pragma unroll
    for (int i = 0; i < VEC; ++i) center[i] *= inverse, values[i] = 0;
#pragma unroll
    for (int o = 0; o < STRIP; ++o)
#pragma unroll
      for (int i = 0; i < VEC; ++i) {
        const S deviation = z[o].v[i] - center[i];
        if (o < live_) values[i] += deviation * deviation;
      }
    sum_lanes<VEC>(values, squares() + place, tiling_.columns);
  }

  // After a synchronization: the tile's mean and squares of each channel, into [tiles, 2, row].
  __device__ void store(S* partials, int row, int first) const {
    S count = 0;
#pragma unroll 1
    for (int group = 0; group < groups(); ++group) count += counts()[group];
    const S inverse = 1 / count;
    for (int channel = threadIdx.x; channel < tiling_.channels; channel += blockDim.x) {
      S total = 0, deviations = 0;
#pragma unroll 4
      for (int group = 0; group < groups(); ++group) total += totals()[group * width() + channel];
      const S mean = total * inverse;
#pragma unroll 4
      for (int group = 0; group < groups(); ++group) {
        const S shift = totals()[group * width() + channel] * inverses()[group] - mean;
        deviations += squares()[group * width() + channel] + counts()[group] * (shift * shift);
      }
      S* to = partials + static_cast<int64_t>(blockIdx.x) * 2 * row + first + channel;
      to[0] = mean;
      to[row] = deviations;
    }
  }

 private:
  static __host__ __device__ int group_size(int columns) { return columns > WARP ? columns : WARP; }
  __device__ int groups() const { return blockDim.x / group_size(tiling_.columns); }
  __device__ int group() const { return threadIdx.x / group_size(tiling_.columns); }
  __device__ int width() const { return tiling_.columns * VEC; }
  // Of each channel [groups, width], then of each group.
  __device__ S* totals() const { return memory_; }
  __device__ S* squares() const { return memory_ + groups() * width(); }
  __device__ S* counts() const { return memory_ + 2 * groups() * width(); }
  __device__ S* inverses() const { return counts() + groups(); }

  S* memory_;
  const Tiling& tiling_;
  int live_;
};

// From partials [tiles, 2, columns], a tile's means and squares, mean and variance of each column.
template <class S>
__global__ void __launch_bounds__(WARP* FINISH_ROWS)
    merge_tiles_kernel(const S* partials, S* mean, S* var, const Tiling tiling, int64_t columns) {
  SSFNAS_SHARED_MEMORY(memory);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x % WARP;
  const auto count = [&](int64_t tile) {
    const Corner corner(tiling, tile);
    return static_cast<double>(min(tiling.rows, tiling.height - corner.y) *
                               min(tiling.across, tiling.width - corner.x));
  };
  const double all = static_cast<double>(tiling.tiles / (tiling.down * tiling.along)) *
                     tiling.height * tiling.width;
  merge_moments<FINISH_ROWS>(column < columns, partials + column, partials + columns + column,
                             2 * columns, tiling.tiles, count, all,
                             reinterpret_cast<double*>(memory), mean + column, var + column);
}

template <class S>
void merge_tiles(const void* partials, void* mean, void* var, const Tiling& tiling,
                 int64_t columns, void* stream) {
  SSFNAS_LAUNCH(merge_tiles_kernel<S>, dim3(blocks(ceil_div(columns, WARP))), WARP * FINISH_ROWS,
                WARP * FINISH_ROWS * sizeof(double), stream, static_cast<const S*>(partials),
                static_cast<S*>(mean), static_cast<S*>(var), tiling, columns);
  check(cudaGetLastError(), "moments of tiles");
}

}  // namespace cuda
}  // namespace ssfnas
