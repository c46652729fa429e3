// Gradients of depthwise filters on GPUs.
//
// A block keeps the pixels of a tile and the gradients of its results in shared memory. Sums over
// tiles go in two stages, in order: the same call gives the same bits.

#include "cuda_candidates.h"
#include "separable_units.cuh"
#include "tile_sums.cuh"

namespace ssfnas {
namespace cuda {
namespace {

constexpr int64_t FILTER_BLOCKS = 1024;  // over tiles and groups: each sums several tiles

// Where the gradient of each filter begins within [C, size, size] of each group.
struct Offsets {
  int64_t at[MAX_INPUTS + 1];
};

// A block goes over tiles; a thread has one row of a filter's taps (one tap where sizes are not
// known to the compiler) and every so-manieth strip of a tile.
template <class T, int VEC>
__global__ void __launch_bounds__(THREADS)
    backward_filter_kernel(const __grid_constant__ Units<T> units, const T* dd,
                           const __grid_constant__ Offsets offsets, Scalar<T>* partials) {
  SSFNAS_SHARED_MEMORY(memory);
  const Tiling& t = units.tiling;
  const Filters& filters = units.filters;
  const int g = blockIdx.z, stride = filters.stride, halo = filters.halo(g);
  const Lane<VEC> lane(t);
  T* pixels = reinterpret_cast<T*>(memory);
  const Rectified<T, VEC> rectified{units.normalized(g, lane)};
  Scalar<T>* to = partials + blockIdx.x * offsets.at[filters.count] + offsets.at[g];
  for_filter<UNROLLED<T, VEC>>(
      filters.size[g], filters.dilation[g], stride, [&](auto known, auto spread, auto step) {
        constexpr int KNOWN = decltype(known)::value, SPREAD = decltype(spread)::value;
        constexpr int STEP = decltype(step)::value, TAPS = KNOWN == 0 ? 1 : KNOWN;
        const int size = filters.size[g], dilation = filters.dilation[g];
        const int lines = KNOWN == 0 ? size * size : size;
        const int rest = threadIdx.x / t.columns, line = rest % lines, sharer = rest / lines;
        const int sharers = blockDim.x / (t.columns * lines);
        const int ky = KNOWN == 0 ? line / size : line, kx = KNOWN == 0 ? line % size : 0;
        Values<T, VEC> sums[TAPS] = {};
        for (int64_t tile = blockIdx.x; tile < t.tiles; tile += gridDim.x) {
          const Corner corner(t, tile);
          const Box box = reached(corner.y, corner.x, t.rows, t.across, stride, halo);
          const Box own{corner.y, corner.x, t.rows, t.across};
          T* gradients = reinterpret_cast<T*>(memory + box_bytes<T>(box, t.columns, VEC));
          __syncthreads();
          // With more loads at once this is too much for compilers to inline, in all eight cases.
          load_box<VEC, 2>(pixels, box, units.input(g, corner.image), units.height, units.width, t,
                        lane, rectified);
          load_box<VEC, 2>(gradients, own, dd + units.result(g, corner.image), t.height, t.width, t,
                        lane, Unchanged{});
          __syncthreads();
          if (sharer >= sharers) continue;
          for (int s = sharer; s < t.rows * (t.across / STRIP); s += sharers) {
            const int row = s % t.rows, col = s / t.rows * STRIP;
            const int width = t.columns * VEC;
            const T* from = gradients + (row * own.pitch() + col) * width + lane.column * VEC;
            const T* at = pixels + lane.column * VEC +
                          ((row * stride + ky * dilation) * box.pitch() + col * stride +
                           kx * dilation) * width;
            Strip<T, VEC> gradient;
#pragma unroll
            for (int o = 0; o < STRIP; ++o) gradient[o] = load<VEC>(from + o * width);
            if constexpr (KNOWN == 0) {
#pragma unroll
              for (int o = 0; o < STRIP; ++o)
                add_product<T, VEC>(sums[0], gradient[o].v, load<VEC>(at + o * stride * width));
            } else {
#pragma unroll
              for (int j = 0; j <= (STRIP - 1) * STEP + (KNOWN - 1) * SPREAD; ++j) {
                const Values<T, VEC> value = load<VEC>(at + j * width);
#pragma unroll
                for (int o = 0; o < STRIP; ++o)
#pragma unroll
                  for (int k = 0; k < KNOWN; ++k)
                    if (j == o * STEP + k * SPREAD)
                      add_product<T, VEC>(sums[k], gradient[o].v, value);
              }
            }
          }
        }
        auto* room = reinterpret_cast<Scalar<T>*>(memory);
        const int width = t.columns * VEC;
#pragma unroll
        for (int k = 0; k < TAPS; ++k) {
          __syncthreads();
#pragma unroll
          for (int i = 0; i < VEC; ++i) room[threadIdx.x * VEC + i] = sums[k].v[i];
          __syncthreads();
          for (int place = threadIdx.x; place < lines * width; place += blockDim.x) {
            const int tap = (place / width) * TAPS + k;
            const int channel = blockIdx.y * width + place % width;
            if (channel >= t.channels) continue;
            Scalar<T> total = 0;
            for (int p = 0; p < sharers; ++p) total += room[p * lines * width + place];
            to[static_cast<int64_t>(channel) * size * size + tap] = total;
          }
        }
      });
}

template <class T, int VEC>
int filter_gradient_bytes(const Plan& plan, int stride, int rows, int across, int columns) {
  const int boxes =
      box_bytes<T>(reached(0, 0, rows, across, stride, plan.halo), columns, VEC) +
      box_bytes<T>(Box{0, 0, rows, across}, columns, VEC);
  const int sums = THREADS * VEC * static_cast<int>(sizeof(Scalar<T>));
  return boxes > sums ? boxes : sums;
}

template <class T, int VEC>
Tiling filter_tiling(const SeparableUnits& given) {
  const Plan plan = plan_of(filters_of(given));
  const int stride = static_cast<int>(given.stride);
  const int most = THREADS / plan.taps < MOST_COLUMNS ? THREADS / plan.taps : MOST_COLUMNS;
  Tiling t = best_tiling(given.images, ceil_div(given.height, given.stride),
                         ceil_div(given.width, given.stride), given.channels, VEC, most,
                         plan.taps, [&](int rows, int across, int columns) {
                           return filter_gradient_bytes<T, VEC>(plan, stride, rows, across,
                                                                columns);
                         });
  t.threads = THREADS;
  return t;
}

int64_t filter_blocks(const Tiling& t, int64_t groups) {
  const int64_t most = FILTER_BLOCKS / (t.channel_tiles * groups);
  return most < 1 ? 1 : (t.tiles < most ? t.tiles : most);
}

int64_t all_taps(const SeparableUnits& units) {
  int64_t taps = 0;
  for (int64_t g = 0; g < units.groups; ++g) taps += units.sizes[g] * units.sizes[g];
  return taps * units.channels;
}

}  // namespace

int64_t depthwise_filter_partials(const SeparableUnits& units) {
  const int64_t parts = most_of_widths(units, [&](auto tag, auto vec) {
    const Tiling t = filter_tiling<typename decltype(tag)::type, decltype(vec)::value>(units);
    return filter_blocks(t, units.groups);
  });
  return parts * all_taps(units);
}

void depthwise_backward_filter(const DepthwiseBackwardFilter& args, int device, void* stream) {
  const OnDevice guard(device);
  const SeparableUnits& given = args.units;
  for_dtype(given.dtype, wide_fits(given) && aligned(args.dd), [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    Units<T> units = units_of<T>(given);
    units.tiling = filter_tiling<T, VEC>(given);
    const Tiling& t = units.tiling;
    Offsets offsets{};
    for (int g = 0; g < units.filters.count; ++g)
      offsets.at[g + 1] = offsets.at[g] + given.sizes[g] * given.sizes[g] * given.channels;
    const int64_t parts = filter_blocks(t, given.groups);
    const dim3 grid(blocks(parts), t.channel_tiles, units.filters.count);
    const int bytes = filter_gradient_bytes<T, VEC>(plan_of(units.filters), units.filters.stride,
                                                    t.rows, t.across, t.columns);
    SSFNAS_LAUNCH((backward_filter_kernel<T, VEC>), grid, t.threads, bytes, stream, units,
                  static_cast<const T*>(args.dd), offsets, static_cast<Scalar<T>*>(args.partials));
    check(cudaGetLastError(), "depthwise_backward_filter");
    sum_rows<Scalar<T>>(args.partials, args.df, parts, all_taps(given), stream);
  });
}

}  // namespace cuda
}  // namespace ssfnas
