// Statistics of channels, and weighted sums with a factor per channel, on GPUs.
//
// A block has a fixed set of channels and goes over several pixels. Sums over pixels go in two
// stages, sums of blocks and their sum in order, so that the same call gives the same bits; a
// variance is computed in a block around the block's own mean, from registers, and blocks are merged
// by Chan's formula.

#include "launch.cuh"

namespace ssfnas {
namespace cuda {
namespace {

constexpr int GROUP = 4;           // inputs whose sums share a synchronization
constexpr int FINISH_ROWS = 8;     // of the second stage's blocks, each WARP channels wide

// How a tensor is laid out over blocks. Where channels lie next to each other, a block is
// `columns` vectors of channels wide and goes down the pixels; else it has one channel.
struct Tiling {
  int64_t channels, inner;
  int64_t packs;     // vectors a pixel has (channels inner), or a channel of a sample
  int64_t height;    // pixels, or vectors that a channel has in all samples
  int64_t splits;    // blocks over the height
  int64_t tiles;     // blocks over the channels
  int columns;       // a power of two
};

Tiling tiling(const Extent& extent, int vec) {
  Tiling t{};
  t.channels = extent.channels;
  t.inner = extent.inner;
  if (extent.inner == 1) {
    t.packs = extent.channels / vec;
    t.height = extent.outer;
    t.columns = 1;
    while (t.columns < WARP && t.packs % (2 * t.columns) == 0) t.columns *= 2;
    // Few neighbors a row would waste loads: rather leave threads idle.
    if (t.columns < 4)
      while (t.columns < WARP && t.columns < t.packs) t.columns *= 2;
    t.tiles = ceil_div(t.packs, t.columns);
    t.splits = ceil_div(t.height, THREADS / t.columns * STEPS);
  } else {
    t.packs = extent.inner / vec;
    t.height = extent.outer * t.packs;
    t.columns = 1;
    t.tiles = extent.channels;
    t.splits = ceil_div(t.height, THREADS * STEPS);
  }
  if (t.tiles > 65535) throw std::invalid_argument("a tensor has too many channels for one launch");
  return t;
}

Extent merged(const Extent& extent) {
  if (extent.channels > 1) return extent;
  return {1, 1, extent.outer * extent.inner};
}

bool wide_fits(const Extent& extent, int vec) {
  return (extent.inner == 1 ? extent.channels : extent.inner) % vec == 0;
}

// The places of a thread in tensors, and the channels of its values: VEC of them from `channel` on
// where channels are inner, else one.
template <int VEC, bool INNER>
struct Spot {
  static constexpr int CHANNELS = INNER ? VEC : 1;
  int64_t channel;
  int64_t at[STEPS];
  bool live[STEPS];

  __device__ explicit Spot(const Tiling& t) {
    if constexpr (INNER) {
      const int column = threadIdx.x & (t.columns - 1), row = threadIdx.x / t.columns;
      const int64_t pack = static_cast<int64_t>(blockIdx.y) * t.columns + column;
      const int rows = THREADS / t.columns;
      channel = pack * VEC;
#pragma unroll
      for (int s = 0; s < STEPS; ++s) {
        const int64_t pixel = (static_cast<int64_t>(blockIdx.x) * STEPS + s) * rows + row;
        live[s] = pack < t.packs && pixel < t.height;
        at[s] = (pixel * t.packs + pack) * VEC;
      }
      if (pack >= t.packs) channel = 0;
    } else {
      channel = blockIdx.y;
#pragma unroll
      for (int s = 0; s < STEPS; ++s) {
        const int64_t place =
            (static_cast<int64_t>(blockIdx.x) * STEPS + s) * THREADS + threadIdx.x;
        live[s] = place < t.height;
        // A division of 64 bits is many times as slow as one of 32.
        const int64_t sample = place <= 0xffffffffll && t.packs <= 0xffffffffll
                                   ? static_cast<uint32_t>(place) / static_cast<uint32_t>(t.packs)
                                   : place / t.packs;
        at[s] = (sample * t.channels + channel) * t.inner + (place - sample * t.packs) * VEC;
      }
    }
  }

  template <class T>
  __device__ Values<T, VEC> load_at(const T* from, int s) const {
    if (live[s]) return load<VEC>(from + at[s]);
    return Values<T, VEC>{};
  }
};

// Factors [.., C] of a thread's values.
template <class S, int N>
struct Factors {
  S v[N];
  __device__ explicit Factors(const S* from) {
    if constexpr (N * sizeof(S) % 16 == 0) {
#pragma unroll
      for (int i = 0; i < N * static_cast<int>(sizeof(S)) / 16; ++i) {
        const uint4 bits = reinterpret_cast<const uint4*>(from)[i];
        memcpy(v + i * (16 / sizeof(S)), &bits, 16);
      }
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) v[i] = from[i];
    }
  }
  __device__ S at(int i) const { return v[N == 1 ? 0 : i]; }
};

template <class T, int VEC, bool INNER>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(const __grid_constant__ Inputs zs, const Scalar<T>* a, const Scalar<T>* b,
                   T* out, const Tiling tiling, int count) {
  using Place = Spot<VEC, INNER>;
  using F = Factors<Scalar<T>, Place::CHANNELS>;
  const Place spot(tiling);
  const F bias(b + spot.channel);
  Values<T, VEC> total[STEPS];
#pragma unroll
  for (int s = 0; s < STEPS; ++s)
#pragma unroll
    for (int i = 0; i < VEC; ++i) total[s].v[i] = bias.at(i);
#pragma unroll 2
  for (int k = 0; k < count; ++k) {
    const T* z = static_cast<const T*>(zs.at[k]);
    const F factor(a + k * tiling.channels + spot.channel);
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      const Values<T, VEC> value = spot.load_at(z, s);
#pragma unroll
      for (int i = 0; i < VEC; ++i) total[s].v[i] += factor.at(i) * value.v[i];
    }
  }
#pragma unroll
  for (int s = 0; s < STEPS; ++s)
    if (spot.live[s]) store<VEC>(out + spot.at[s], total[s]);
}

template <class T, int VEC, bool INNER>
__global__ void __launch_bounds__(THREADS)
    apply_kernel(const T* grad, const __grid_constant__ Inputs zs, const Scalar<T>* p,
                 const Scalar<T>* q, const Scalar<T>* r, const __grid_constant__ Outputs dzs,
                 const Tiling tiling, int count) {
  using Place = Spot<VEC, INNER>;
  using F = Factors<Scalar<T>, Place::CHANNELS>;
  const Place spot(tiling);
  Values<T, VEC> g[STEPS];
#pragma unroll
  for (int s = 0; s < STEPS; ++s) g[s] = spot.load_at(grad, s);
  for (int k = 0; k < count; ++k) {
    T* dz = static_cast<T*>(dzs.at[k]);
    if (dz == nullptr) continue;
    const T* z = static_cast<const T*>(zs.at[k]);
    const int64_t row = k * tiling.channels + spot.channel;
    const F of_g(p + row), of_z(q + row), of_one(r + row);
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      Values<T, VEC> value = spot.load_at(z, s);
#pragma unroll
      for (int i = 0; i < VEC; ++i)
        value.v[i] = of_g.at(i) * g[s].v[i] + (of_z.at(i) * value.v[i] + of_one.at(i));
      if (spot.live[s]) store<VEC>(dz + spot.at[s], value);
    }
  }
}

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
                  Scalar<T>* partials, const Tiling tiling, int count) {
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
    statistics_kernel(const __grid_constant__ Inputs zs, Scalar<T>* partials, const Tiling tiling,
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

// Sums what FINISH_ROWS threads of a channel hold; the first row's threads get the result.
__device__ inline double sum_of_rows(double value, double (*rows)[WARP]) {
  rows[threadIdx.y][threadIdx.x] = value;
  __syncthreads();
  double sum = 0;
  for (int row = 0; row < FINISH_ROWS; ++row) sum += rows[row][threadIdx.x];
  __syncthreads();
  return sum;
}

template <class S>
__global__ void __launch_bounds__(WARP* FINISH_ROWS)
    finish_reduce(const S* partials, const S* rstd, S* s0, S* s1, int64_t splits,
                  int64_t channels) {
  __shared__ double rows[FINISH_ROWS][WARP];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x, row = blockIdx.y;
  double sum = 0;
  if (c < channels)
    for (int64_t split = threadIdx.y; split < splits; split += FINISH_ROWS)
      sum += partials[(row * splits + split) * channels + c];
  sum = sum_of_rows(sum, rows);
  if (threadIdx.y != 0 || c >= channels) return;
  if (row == 0)
    s0[c] = static_cast<S>(sum);
  else
    s1[(row - 1) * channels + c] = static_cast<S>(sum * rstd[(row - 1) * channels + c]);
}

template <class S>
__global__ void __launch_bounds__(WARP* FINISH_ROWS)
    finish_statistics(const __grid_constant__ Inputs zs, const S* partials, S* mean, S* var,
                      int64_t splits, int64_t channels, double block_values, double last_values,
                      int count) {
  __shared__ double rows[FINISH_ROWS][WARP];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * WARP + threadIdx.x, k = blockIdx.y;
  if (zs.at[k] == nullptr) {
    if (threadIdx.y == 0 && c < channels) mean[k * channels + c] = 0, var[k * channels + c] = 1;
    return;
  }
  const S* means = partials + k * splits * channels + c;
  const S* squares = means + count * splits * channels;
  const double all = block_values * static_cast<double>(splits - 1) + last_values;
  double sum = 0;
  if (c < channels)
    for (int64_t split = threadIdx.y; split < splits; split += FINISH_ROWS)
      sum += means[split * channels] * (split + 1 < splits ? block_values : last_values);
  const double center = sum_of_rows(sum, rows) / all;
  sum = 0;
  if (c < channels)
    for (int64_t split = threadIdx.y; split < splits; split += FINISH_ROWS) {
      const double shift = means[split * channels] - center;
      sum += squares[split * channels] +
             shift * shift * (split + 1 < splits ? block_values : last_values);
    }
  sum = sum_of_rows(sum, rows);
  if (threadIdx.y != 0 || c >= channels) return;
  mean[k * channels + c] = static_cast<S>(center);
  var[k * channels + c] = static_cast<S>(sum / all);
}

// Calls `function(Tag<T>, Number<VEC>, Number<INNER>, tiling)`.
template <class Function>
void for_layout(Dtype dtype, const Extent& extent, bool is_aligned, Function function) {
  const bool wide = is_aligned && wide_fits(extent, full_of(dtype));
  for_dtype(dtype, wide, [&](auto tag, auto vec) {
    const Tiling tiles = tiling(extent, decltype(vec)::value);
    if (extent.inner == 1)
      function(tag, vec, Number<1>{}, tiles);
    else
      function(tag, vec, Number<0>{}, tiles);
  });
}

dim3 grid_of(const Tiling& tiles, int64_t depth = 1) {
  return dim3(blocks(tiles.splits), blocks(tiles.tiles), blocks(depth));
}

dim3 finish_grid(const Tiling& tiles, int64_t rows) {
  return dim3(blocks(ceil_div(tiles.channels, WARP)), blocks(rows));
}

}  // namespace

int64_t norm_partials(Dtype dtype, const Extent& given, int64_t rows, const void* const* tensors,
                      int64_t count) {
  const Extent extent = merged(given);
  int64_t splits = 0;
  for_layout(dtype, extent, aligned(tensors, count),
             [&](auto, auto, auto, const Tiling& tiles) { splits = tiles.splits; });
  return rows * splits * given.channels;
}

void norm_statistics(const NormStatistics& args, int device, void* stream) {
  const OnDevice on(device);
  const Extent extent = merged(args.extent);
  const Inputs zs = inputs(args.zs, args.count);
  const int count = static_cast<int>(args.count);
  const cudaStream_t on_stream = static_cast<cudaStream_t>(stream);
  for_layout(args.dtype, extent, aligned(args.zs, args.count),
             [&](auto tag, auto vec, auto inner, const Tiling& tiles) {
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
    finish_statistics<S><<<finish_grid(tiles, count), dim3(WARP, FINISH_ROWS), 0, on_stream>>>(
        zs, partials, static_cast<S*>(args.mean), static_cast<S*>(args.var), tiles.splits,
        tiles.channels, static_cast<double>(block * unit), static_cast<double>(last * unit),
        count);
  });
  check(cudaGetLastError(), "norm_statistics");
}

void norm_sum_forward(const NormSumForward& args, int device, void* stream) {
  const OnDevice on(device);
  const Extent extent = merged(args.extent);
  const Inputs zs = inputs(args.zs, args.count);
  const bool is_aligned = aligned(args.zs, args.count) && aligned(args.out) && aligned(args.a) &&
                          aligned(args.b);
  for_layout(args.dtype, extent, is_aligned,
             [&](auto tag, auto vec, auto inner, const Tiling& tiles) {
    using T = typename decltype(tag)::type;
    using S = Scalar<T>;
    forward_kernel<T, decltype(vec)::value, decltype(inner)::value != 0>
        <<<grid_of(tiles), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
            zs, static_cast<const S*>(args.a), static_cast<const S*>(args.b),
            static_cast<T*>(args.out), tiles, static_cast<int>(args.count));
  });
  check(cudaGetLastError(), "norm_sum_forward");
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
             [&](auto tag, auto vec, auto inner, const Tiling& tiles) {
    using T = typename decltype(tag)::type;
    using S = Scalar<T>;
    S* partials = static_cast<S*>(args.partials);
    reduce_kernel<T, decltype(vec)::value, decltype(inner)::value != 0>
        <<<grid_of(tiles), THREADS, 0, on_stream>>>(static_cast<const T*>(args.grad), zs,
                                                    static_cast<const S*>(args.mean), partials,
                                                    tiles, count);
    finish_reduce<S><<<finish_grid(tiles, count + 1), dim3(WARP, FINISH_ROWS), 0, on_stream>>>(
        partials, static_cast<const S*>(args.rstd), static_cast<S*>(args.s0),
        static_cast<S*>(args.s1), tiles.splits, tiles.channels);
  });
  check(cudaGetLastError(), "norm_sum_reduce");
}

void norm_sum_apply(const NormSumApply& args, int device, void* stream) {
  const OnDevice on(device);
  const Extent extent = merged(args.extent);
  const Inputs zs = inputs(args.zs, args.count);
  const Outputs dzs = outputs(args.dzs, args.count);
  const bool is_aligned = aligned(args.zs, args.count) && aligned(args.dzs, args.count) &&
                          aligned(args.grad) && aligned(args.p) && aligned(args.q) &&
                          aligned(args.r);
  for_layout(args.dtype, extent, is_aligned,
             [&](auto tag, auto vec, auto inner, const Tiling& tiles) {
    using T = typename decltype(tag)::type;
    using S = Scalar<T>;
    apply_kernel<T, decltype(vec)::value, decltype(inner)::value != 0>
        <<<grid_of(tiles), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
            static_cast<const T*>(args.grad), zs, static_cast<const S*>(args.p),
            static_cast<const S*>(args.q), static_cast<const S*>(args.r), dzs, tiles,
            static_cast<int>(args.count));
  });
  check(cudaGetLastError(), "norm_sum_apply");
}

}  // namespace cuda
}  // namespace ssfnas
