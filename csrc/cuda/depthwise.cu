// Depthwise convolutions of all groups on GPUs: forward, and the gradients of inputs and filters.
//
// A block keeps the pixels that a tile needs in shared memory. Where groups share their input, the
// forward pass reads a tile once for all of them, and the backward pass writes its gradient once.
// Sums over tiles go in two stages, in order: the same call gives the same bits.

#include "cuda_candidates.h"
#include "separable_units.cuh"
#include "tile_sums.cuh"

namespace ssfnas {
namespace cuda {
namespace {

constexpr int MOST_COLUMNS = 8;       // vectors of channels that are side by side in a block
constexpr int64_t FILTER_BLOCKS = 1024;  // over tiles and groups: each sums several tiles

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS, RESIDENT<T>)
    forward_kernel(const __grid_constant__ Units<T> units, T* out) {
  SSFNAS_SHARED_MEMORY(memory);
  const Tiling& t = units.tiling;
  const Lane<VEC> lane(t);
  const Corner corner(t, blockIdx.x);
  const Box box = reached(corner.y, corner.x, t.rows, t.across, units.filters.stride,
                          units.reach(units.first()));
  T* pixels = reinterpret_cast<T*>(memory);
  auto* filter = reinterpret_cast<Scalar<T>*>(memory + box_bytes<T>(box, t.columns, VEC));
  load_box<VEC>(pixels, box, units.input(units.first(), corner.image), units.height, units.width,
                t, lane, Rectified<T, VEC>{units.normalized(units.first(), lane)});
  for (int g = units.first(); g < units.last(); ++g) {
    __syncthreads();
    load_filter<VEC>(filter, static_cast<const Scalar<T>*>(units.filters.at[g]),
                     units.filters.size[g] * units.filters.size[g], t);
    __syncthreads();
    const int y = corner.y + lane.row, x = corner.x + lane.strip * STRIP;
    if (!lane.live || lane.strip * STRIP >= t.across || y >= t.height || x >= t.width) continue;
    Strip<T, VEC> total = {};
    const View<T, VEC> view(pixels, filter, box, t, lane, corner);
    add_group<false, T, VEC>(total, view, units.filters, g);
    T* to = out + units.result(g, corner.image) +
            (static_cast<int64_t>(y) * t.width + x) * t.channels + lane.channel;
#pragma unroll
    for (int o = 0; o < STRIP; ++o)
      if (x + o < t.width) store<VEC>(to + o * t.channels, total[o]);
  }
}

// The sum of a block's threads that have the same channels, in order, into to[channel].
template <int VEC, class S>
__device__ inline void sum_columns(S* memory, const S (&mine)[VEC], const Tiling& t, S* to) {
  __syncthreads();
#pragma unroll
  for (int i = 0; i < VEC; ++i) memory[threadIdx.x * VEC + i] = mine[i];
  __syncthreads();
  const int width = t.columns * VEC;
  for (int place = threadIdx.x; place < width; place += blockDim.x) {
    const int channel = blockIdx.y * width + place;
    if (channel >= t.channels) continue;
    S total = 0;
    for (int thread = 0; thread < static_cast<int>(blockDim.x) / t.columns; ++thread)
      total += memory[thread * width + place];
    to[channel] = total;
  }
}

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS, RESIDENT<T>)
    backward_input_kernel(const __grid_constant__ Units<T> units, const T* dd, const T* into,
                          const __grid_constant__ Outputs dxs, Scalar<T>* partials) {
  SSFNAS_SHARED_MEMORY(memory);
  const Tiling& t = units.tiling;
  const Lane<VEC> lane(t);
  const Corner corner(t, blockIdx.x);
  const int y = corner.y + lane.row, x = corner.x + lane.strip * STRIP;
  const bool busy = lane.live && lane.strip * STRIP < t.across && y < t.height && x < t.width;
  T* pixels = reinterpret_cast<T*>(memory);
  Strip<T, VEC> total = {};
  for (int g = units.first(); g < units.last(); ++g) {
    const Box box =
        reaching(corner.y, corner.x, t.rows, t.across, units.filters.stride, units.filters.halo(g));
    auto* filter = reinterpret_cast<Scalar<T>*>(memory + box_bytes<T>(box, t.columns, VEC));
    __syncthreads();
    load_box<VEC>(pixels, box, dd + units.result(g, corner.image), units.out_height,
                  units.out_width, t, lane, Unchanged{});
    load_filter<VEC>(filter, static_cast<const Scalar<T>*>(units.filters.at[g]),
                     units.filters.size[g] * units.filters.size[g], t);
    __syncthreads();
    if (!busy) continue;
    const View<T, VEC> view(pixels, filter, box, t, lane, corner);
    add_group<true, T, VEC>(total, view, units.filters, g);
  }
  const int g = units.first();
  Scalar<T> sums[VEC] = {}, products[VEC] = {};
  if (busy) {
    const Normalized<T, VEC> normalized = units.normalized(g, lane);
    const int64_t within = (static_cast<int64_t>(y) * t.width + x) * t.channels + lane.channel;
    const int64_t place = corner.image * t.height * t.width * t.channels + within;
    const T* input = units.input(g, corner.image) + within;
    T* to = static_cast<T*>(dxs.at[g]) + place;
#pragma unroll
    for (int o = 0; o < STRIP; ++o) {
      if (x + o >= t.width) break;
      const Values<T, VEC> u = normalized(load<VEC>(input + o * t.channels));
      Values<T, VEC> gradient = total[o];
#pragma unroll
      for (int i = 0; i < VEC; ++i) {
        T rounded;
        narrow(u.v[i], rounded);
        if (!(widened(rounded) > 0)) gradient.v[i] = 0;
      }
      if (into != nullptr) {
        const Values<T, VEC> before = load<VEC>(into + place + o * t.channels);
#pragma unroll
        for (int i = 0; i < VEC; ++i) gradient.v[i] += before.v[i];
      }
      store<VEC>(to + o * t.channels, gradient);
#pragma unroll
      for (int i = 0; i < VEC; ++i) {
        sums[i] += gradient.v[i];
        products[i] += gradient.v[i] * u.v[i];
      }
    }
  }
  if (partials == nullptr) return;
  auto* room = reinterpret_cast<Scalar<T>*>(memory);
  const int64_t row = static_cast<int64_t>(units.filters.count) * t.channels;
  Scalar<T>* to = partials + blockIdx.x * 2 * row + static_cast<int64_t>(g) * t.channels;
  sum_columns<VEC>(room, sums, t, to);
  sum_columns<VEC>(room, products, t, to + row);
}

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
__global__ void __launch_bounds__(THREADS)
    scaled_sums_kernel(const __grid_constant__ Inputs grads, const __grid_constant__ Inputs zs,
                       const Scalar<T>* p, const Scalar<T>* q, const Scalar<T>* r, T* out,
                       int64_t pixels, int channels) {
  const int g = blockIdx.y, packs = channels / VEC;
  const int64_t place = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (place >= pixels * packs) return;
  const int64_t row = static_cast<int64_t>(g) * channels + place % packs * VEC;
  Scalar<T> factor[VEC];
  load_coefficients(factor, p + row);
  Values<T, VEC> values = load<VEC>(static_cast<const T*>(grads.at[g]) + place * VEC);
#pragma unroll
  for (int i = 0; i < VEC; ++i) values.v[i] *= factor[i];
  if (q != nullptr) {
    const Values<T, VEC> z = load<VEC>(static_cast<const T*>(zs.at[g]) + place * VEC);
    Scalar<T> more[VEC], constant[VEC];
    load_coefficients(more, q + row);
    load_coefficients(constant, r + row);
#pragma unroll
    for (int i = 0; i < VEC; ++i) values.v[i] += more[i] * z.v[i] + constant[i];
  }
  store<VEC>(out + (g * pixels * packs + place) * VEC, values);
}

// --- on the host

template <class T, int VEC>
int forward_bytes(const Plan& plan, int stride, int rows, int across, int columns) {
  return box_bytes<T>(reached(0, 0, rows, across, stride, plan.halo), columns, VEC) +
         filter_bytes<Scalar<T>>(plan.taps, columns, VEC);
}

template <class T, int VEC>
int input_bytes(const Plan& plan, int stride, int rows, int across, int columns) {
  // Where a tile begins decides how many results have a part in it: at most one more each way.
  Box box = reaching(0, 0, rows, across, stride, plan.halo);
  ++box.rows, ++box.cols;
  const int boxes = box_bytes<T>(box, columns, VEC) +
                    filter_bytes<Scalar<T>>(plan.taps, columns, VEC);
  const int sums = THREADS * VEC * static_cast<int>(sizeof(Scalar<T>));
  return boxes > sums ? boxes : sums;
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
Tiling input_tiling(const SeparableUnits& given) {
  const Plan plan = plan_of(filters_of(given));
  const int stride = static_cast<int>(given.stride);
  return best_tiling(given.images, given.height, given.width, given.channels, VEC, MOST_COLUMNS,
                     plan.taps, 1.0, [&](int rows, int across, int columns) {
                       return input_bytes<T, VEC>(plan, stride, rows, across, columns);
                     });
}

template <class T, int VEC>
Tiling filter_tiling(const SeparableUnits& given) {
  const Plan plan = plan_of(filters_of(given));
  const int stride = static_cast<int>(given.stride);
  const int most = THREADS / plan.taps < MOST_COLUMNS ? THREADS / plan.taps : MOST_COLUMNS;
  Tiling t = best_tiling(given.images, ceil_div(given.height, given.stride),
                         ceil_div(given.width, given.stride), given.channels, VEC, most,
                         plan.taps, 1.0, [&](int rows, int across, int columns) {
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

// Both are the same with 16-byte loads and without only by chance: the larger one is enough.
int64_t depthwise_input_partials(const SeparableUnits& units) {
  int64_t most = 0;
  for (const bool wide : {false, true}) {
    if (wide && units.channels % full_of(units.dtype) != 0) continue;
    for_dtype(units.dtype, wide, [&](auto tag, auto vec) {
      using T = typename decltype(tag)::type;
      const Tiling t = input_tiling<T, decltype(vec)::value>(units);
      if (t.tiles > most) most = t.tiles;
    });
  }
  return most * 2 * units.groups * units.channels;
}

int64_t depthwise_filter_partials(const SeparableUnits& units) {
  int64_t most = 0;
  for (const bool wide : {false, true}) {
    if (wide && units.channels % full_of(units.dtype) != 0) continue;
    for_dtype(units.dtype, wide, [&](auto tag, auto vec) {
      using T = typename decltype(tag)::type;
      const int64_t found =
          filter_blocks(filter_tiling<T, decltype(vec)::value>(units), units.groups);
      if (found > most) most = found;
    });
  }
  return most * all_taps(units);
}

void depthwise_forward(const DepthwiseForward& args, int device, void* stream) {
  const OnDevice guard(device);
  const SeparableUnits& given = args.units;
  for_dtype(given.dtype, wide_fits(given) && aligned(args.out), [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    Units<T> units = units_of<T>(given);
    const Plan plan = plan_of(units.filters);
    const auto bytes = [&](int rows, int across, int columns) {
      return forward_bytes<T, VEC>(plan, units.filters.stride, rows, across, columns);
    };
    const double each = given.shared ? static_cast<double>(given.groups) : 1;
    units.tiling = best_tiling(given.images, units.out_height, units.out_width, given.channels,
                               VEC, MOST_COLUMNS, plan.taps * each, 1.0, bytes);
    const Tiling& t = units.tiling;
    const dim3 grid(blocks(t.tiles), t.channel_tiles, given.shared ? 1 : units.filters.count);
    SSFNAS_LAUNCH((forward_kernel<T, VEC>), grid, t.threads, bytes(t.rows, t.across, t.columns),
                  stream, units, static_cast<T*>(args.out));
    check(cudaGetLastError(), "depthwise_forward");
  });
}

void depthwise_backward_input(const DepthwiseBackwardInput& args, int device, void* stream) {
  const OnDevice guard(device);
  const SeparableUnits& given = args.units;
  const bool wide = wide_fits(given) && aligned(args.dd) && aligned(args.into) &&
                    aligned(args.dxs, given.shared ? 1 : given.groups);
  for_dtype(given.dtype, wide, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    Units<T> units = units_of<T>(given);
    units.tiling = input_tiling<T, VEC>(given);
    const Tiling& t = units.tiling;
    const dim3 grid(blocks(t.tiles), t.channel_tiles, given.shared ? 1 : units.filters.count);
    const int bytes = input_bytes<T, VEC>(plan_of(units.filters), units.filters.stride, t.rows,
                                          t.across, t.columns);
    SSFNAS_LAUNCH((backward_input_kernel<T, VEC>), grid, t.threads, bytes, stream, units,
                  static_cast<const T*>(args.dd), static_cast<const T*>(args.into),
                  outputs(args.dxs, given.shared ? 1 : given.groups),
                  static_cast<Scalar<T>*>(args.partials));
    check(cudaGetLastError(), "depthwise_backward_input");
    if (args.partials == nullptr) return;
    sum_rows<Scalar<T>>(args.partials, args.sums, t.tiles, 2 * given.groups * given.channels,
                        stream);
  });
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

void scaled_sums(const ScaledSums& args, int device, void* stream) {
  const OnDevice guard(device);
  const bool read = args.q != nullptr;
  const bool wide = args.channels % full_of(args.dtype) == 0 && aligned(args.out) &&
                    aligned(args.p) && aligned(args.q) && aligned(args.r) &&
                    aligned(args.grads, args.groups) && (!read || aligned(args.zs, args.groups));
  for_dtype(args.dtype, wide, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    const dim3 grid(blocks(ceil_div(args.pixels * (args.channels / VEC), THREADS)),
                    static_cast<unsigned>(args.groups));
    SSFNAS_LAUNCH((scaled_sums_kernel<T, VEC>), grid, THREADS, 0, stream,
                  inputs(args.grads, args.groups), read ? inputs(args.zs, args.groups) : Inputs{},
                  static_cast<const Scalar<T>*>(args.p), static_cast<const Scalar<T>*>(args.q),
                  static_cast<const Scalar<T>*>(args.r), static_cast<T*>(args.out), args.pixels,
                  static_cast<int>(args.channels));
    check(cudaGetLastError(), "scaled_sums");
  });
}

}  // namespace cuda
}  // namespace ssfnas
