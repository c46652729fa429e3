// Statistics of channels, and the sums that gradients of normalized sums need, on GPUs.
//
// Sums over pixels go in two stages, sums of blocks and their sum in order, so that the same call
// gives the same bits; a variance is computed in a block around the block's own mean, from
// registers, and blocks are merged by the formula in moments.cuh.

#include "mixed_norm_sum.cuh"
#include "moments.cuh"

namespace ssfnas {
namespace cuda {
namespace {

constexpr int GROUP = 4;         // inputs whose sums share a synchronization
constexpr int FINISH_PARTS = 8;  // of the second stage's blocks

// The sums of a block's threads, for each of its channels, one row of them per value of `row`.
template <class S, int N>
struct BlockSums {
  static constexpr int WIDTH = WARP * N;
  S sums[WARPS][WIDTH];

  // Every thread hands in a value for each of its N channels.
  __device__ void add(const S* values, int columns) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const S sum = sum_of_lanes(values[i], columns);
      if (lane < columns) sums[warp][lane * N + i] = sum;
    }
  }
  // After a synchronization: the sum of one of the block's channels.
  __device__ S total(int channel) const {
    S sum = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum += sums[warp][channel];
    return sum;
  }
};

// partials[row, split, c]: row 0 sum g, row k + 1 sum g (z_k - mean_kc).
template <class T, int VEC, bool INNER>
__global__ void __launch_bounds__(THREADS)
    reduce_kernel(const T* grad, const __grid_constant__ Inputs zs, const Scalar<T>* mean,
                  Scalar<T>* partials, const ChannelTiling tiling, int count) {
  using S = Scalar<T>;
  using Place = Spot<VEC, INNER>;
  constexpr int N = Place::CHANNELS;
  __shared__ BlockSums<S, N> sums[GROUP];
  const Place spot(tiling);
  Values<T, VEC> g[STEPS];
#pragma unroll
  for (int s = 0; s < STEPS; ++s) g[s] = spot.load_at(grad, s);
  const int64_t first = INNER ? static_cast<int64_t>(blockIdx.y) * tiling.columns * N : blockIdx.y;
  const int width = tiling.columns * N;
  for (int start = 0; start <= count; start += GROUP) {
    const int rows = min(GROUP, count + 1 - start);
    for (int j = 0; j < rows; ++j) {
      S sum[N] = {};
      if (start + j == 0) {
#pragma unroll
        for (int s = 0; s < STEPS; ++s)
#pragma unroll
          for (int i = 0; i < VEC; ++i) sum[INNER ? i : 0] += g[s].v[i];
      } else {
        const int k = start + j - 1;
        const T* z = static_cast<const T*>(zs.at[k]);
        const Factors<S, N> center(mean + k * tiling.channels + spot.channel);
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
          const Values<T, VEC> value = spot.load_at(z, s);
          // A gradient that was not loaded is zero, but zero times infinity is not.
          if (!spot.live[s]) continue;
#pragma unroll
          for (int i = 0; i < VEC; ++i)
            sum[INNER ? i : 0] += g[s].v[i] * (value.v[i] - center.at(i));
        }
      }
      sums[j].add(sum, tiling.columns);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * width; i += THREADS) {
      const int row = i / width, column = i % width;
      if (first + column < tiling.channels)
        partials[((start + row) * tiling.splits + blockIdx.x) * tiling.channels + first + column] =
            sums[row].total(column);
    }
    __syncthreads();
  }
}

// partials[k, split, c] = the block's mean, partials[K + k, split, c] = its squared deviations.
template <class T, int VEC, bool INNER>
__global__ void __launch_bounds__(THREADS)
    statistics_kernel(const __grid_constant__ Inputs zs, Scalar<T>* partials, const ChannelTiling tiling,
                      int64_t block_values, int64_t last_values, int count) {
  using S = Scalar<T>;
  using Place = Spot<VEC, INNER>;
  constexpr int N = Place::CHANNELS;
  __shared__ BlockSums<S, N> sums, squares;
  const int k = blockIdx.z;
  const T* z = static_cast<const T*>(zs.at[k]);
  if (z == nullptr) return;
  const Place spot(tiling);
  Values<T, VEC> value[STEPS];
  S sum[N] = {};
#pragma unroll
  for (int s = 0; s < STEPS; ++s) {
    value[s] = spot.load_at(z, s);
#pragma unroll
    for (int i = 0; i < VEC; ++i) sum[INNER ? i : 0] += value[s].v[i];
  }
  sums.add(sum, tiling.columns);
  __syncthreads();
  const S values = static_cast<S>(blockIdx.x + 1 < tiling.splits ? block_values : last_values);
  const int column = (threadIdx.x & (tiling.columns - 1)) * N;
  S mean[N];
#pragma unroll
  for (int i = 0; i < N; ++i) mean[i] = sums.total(column + i) / values;
  S square[N] = {};
#pragma unroll
  for (int s = 0; s < STEPS; ++s) {
    if (!spot.live[s]) continue;
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      const S deviation = value[s].v[i] - mean[INNER ? i : 0];
      square[INNER ? i : 0] += deviation * deviation;
    }
  }
  squares.add(square, tiling.columns);
  __syncthreads();
  const int64_t first = INNER ? static_cast<int64_t>(blockIdx.y) * tiling.columns * N : blockIdx.y;
  for (int i = threadIdx.x; i < tiling.columns * N; i += THREADS) {
    if (first + i >= tiling.channels) continue;
    const int64_t to = (k * tiling.splits + blockIdx.x) * tiling.channels + first + i;
    partials[to] = sums.total(i) / values;
    partials[count * tiling.splits * tiling.channels + to] = squares.total(i);
  }
}

template <class S>
__global__ void __launch_bounds__(WARP* FINISH_PARTS)
    finish_reduce(const S* partials, const S* rstd, S* s0, S* s1, int64_t splits,
                  int64_t channels) {
  __shared__ double room[WARP * FINISH_PARTS];
  const int part = threadIdx.x / WARP;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x % WARP;
  const int64_t row = blockIdx.y;
  double sum = 0;
  if (c < channels)
    for (int64_t split = part; split < splits; split += FINISH_PARTS)
      sum += partials[(row * splits + split) * channels + c];
  sum = sum_of_parts<FINISH_PARTS>(sum, room);
  if (part != 0 || c >= channels) return;
  if (row == 0)
    s0[c] = static_cast<S>(sum);
  else
    s1[(row - 1) * channels + c] = static_cast<S>(sum * rstd[(row - 1) * channels + c]);
}

template <class S>
__global__ void __launch_bounds__(WARP* FINISH_PARTS)
    finish_statistics(const __grid_constant__ Inputs zs, const S* partials, S* mean, S* var,
                      int64_t splits, int64_t channels, double block_values, double last_values,
                      int count) {
  __shared__ double room[WARP * FINISH_PARTS];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x % WARP, k = blockIdx.y;
  const int64_t to = k * channels + c;
  if (zs.at[k] == nullptr) {
    if (threadIdx.x < WARP && c < channels) mean[to] = 0, var[to] = 1;
    return;
  }
  const S* means = partials + k * splits * channels + c;
  const auto values = [&](int64_t split) {
    return split + 1 < splits ? block_values : last_values;
  };
  merge_moments<FINISH_PARTS>(c < channels, means, means + count * splits * channels, channels,
                              splits, values,
                              block_values * static_cast<double>(splits - 1) + last_values, room,
                              mean + to, var + to);
}

dim3 finish_grid(const ChannelTiling& tiles, int64_t rows) {
  return dim3(blocks(ceil_div(tiles.channels, WARP)), blocks(rows));
}

}  // namespace

int64_t norm_partials(Dtype dtype, const Extent& given, int64_t rows, const void* const* tensors,
                      int64_t count) {
  const Extent extent = merged(given);
  int64_t splits = 0;
  for_layout(dtype, extent, aligned(tensors, count),
             [&](auto, auto, auto, const ChannelTiling& tiles) { splits = tiles.splits; });
  return rows * splits * given.channels;
}

void norm_statistics(const NormStatistics& args, int device, void* stream) {
  const OnDevice on(device);
  const Extent extent = merged(args.extent);
  const Inputs zs = inputs(args.zs, args.count);
  const int count = static_cast<int>(args.count);
  const cudaStream_t on_stream = static_cast<cudaStream_t>(stream);
  for_layout(args.dtype, extent, aligned(args.zs, args.count),
             [&](auto tag, auto vec, auto inner, const ChannelTiling& tiles) {
    using T = typename decltype(tag)::type;
    using S = Scalar<T>;
    constexpr int VEC = decltype(vec)::value;
    constexpr bool INNER = decltype(inner)::value != 0;
    const int64_t unit = INNER ? 1 : VEC;
    const int64_t block = THREADS / tiles.columns * STEPS;
    const int64_t last = tiles.height - (tiles.splits - 1) * block;
    S* partials = static_cast<S*>(args.partials);
    statistics_kernel<T, VEC, INNER><<<grid_of(tiles, count), THREADS, 0, on_stream>>>(
        zs, partials, tiles, block * unit, last * unit, count);
    finish_statistics<S><<<finish_grid(tiles, count), WARP * FINISH_PARTS, 0, on_stream>>>(
        zs, partials, static_cast<S*>(args.mean), static_cast<S*>(args.var), tiles.splits,
        tiles.channels, static_cast<double>(block * unit), static_cast<double>(last * unit),
        count);
  });
  check(cudaGetLastError(), "norm_statistics");
}

void norm_sum_reduce(const NormSumReduce& args, int device, void* stream) {
  const OnDevice on(device);
  const Extent extent = merged(args.extent);
  const Inputs zs = inputs(args.zs, args.count);
  const bool is_aligned =
      aligned(args.zs, args.count) && aligned(args.grad) && aligned(args.mean);
  const int count = static_cast<int>(args.count);
  const cudaStream_t on_stream = static_cast<cudaStream_t>(stream);
  for_layout(args.dtype, extent, is_aligned,
             [&](auto tag, auto vec, auto inner, const ChannelTiling& tiles) {
    using T = typename decltype(tag)::type;
    using S = Scalar<T>;
    S* partials = static_cast<S*>(args.partials);
    reduce_kernel<T, decltype(vec)::value, decltype(inner)::value != 0>
        <<<grid_of(tiles), THREADS, 0, on_stream>>>(static_cast<const T*>(args.grad), zs,
                                                    static_cast<const S*>(args.mean), partials,
                                                    tiles, count);
    finish_reduce<S><<<finish_grid(tiles, count + 1), WARP * FINISH_PARTS, 0, on_stream>>>(
        partials, static_cast<const S*>(args.rstd), static_cast<S*>(args.s0),
        static_cast<S*>(args.s1), tiles.splits, tiles.channels);
  });
  check(cudaGetLastError(), "norm_sum_reduce");
}

}  // namespace cuda
}  // namespace ssfnas
