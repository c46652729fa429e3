// Depthwise convolutions of all groups on GPUs, and the gradients of their inputs.
//
// A block keeps the pixels that a tile needs in shared memory. Where groups share their input, the
// forward pass reads a tile once for all of them, and the backward pass writes its gradient once.

#include "cuda_candidates.h"
#include "separable_units.cuh"
#include "tile_sums.cuh"

namespace ssfnas {
namespace cuda {
namespace {

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
    load_filter<VEC>(filter, units.filters, g, t);
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
                          const __grid_constant__ Outputs dxs, Scalar<T>* partials,
                          const Scalar<T>* center) {
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
    load_filter<VEC>(filter, units.filters, g, t);
    __syncthreads();
    if (!busy) continue;
    const View<T, VEC> view(pixels, filter, box, t, lane, corner);
    add_group<true, T, VEC>(total, view, units.filters, g);
  }
  const int g = units.first();
  Scalar<T> sums[VEC] = {}, products[VEC] = {};
  if (busy) {
    const Normalized<T, VEC> normalized = units.normalized(g, lane);
    Scalar<T> middle[VEC] = {};
    if (center != nullptr)
      load_coefficients(middle, center + static_cast<int64_t>(g) * t.channels + lane.channel);
    const int64_t within = (static_cast<int64_t>(y) * t.width + x) * t.channels + lane.channel;
    const int64_t place = corner.image * t.height * t.width * t.channels + within;
    const T* input = units.input(g, corner.image) + within;
    T* to = static_cast<T*>(dxs.at[g]) + place;
#pragma unroll
    for (int o = 0; o < STRIP; ++o) {
      if (x + o >= t.width) break;
      const Values<T, VEC> raw = load<VEC>(input + o * t.channels), u = normalized(raw);
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
        products[i] += gradient.v[i] * (raw.v[i] - middle[i]);
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
Tiling input_tiling(const SeparableUnits& given) {
  const Plan plan = plan_of(filters_of(given));
  const int stride = static_cast<int>(given.stride);
  return best_tiling(given.images, given.height, given.width, given.channels, VEC, MOST_COLUMNS,
                     plan.taps, [&](int rows, int across, int columns) {
                       return input_bytes<T, VEC>(plan, stride, rows, across, columns);
                     });
}

}  // namespace

int64_t depthwise_input_partials(const SeparableUnits& units) {
  const int64_t tiles = most_of_widths(units, [&](auto tag, auto vec) {
    return input_tiling<typename decltype(tag)::type, decltype(vec)::value>(units).tiles;
  });
  return tiles * 2 * units.groups * units.channels;
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
                               VEC, MOST_COLUMNS, plan.taps * each, bytes);
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
                    aligned(args.dxs, given.shared ? 1 : given.groups) && aligned(args.center);
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
                  static_cast<Scalar<T>*>(args.partials),
                  static_cast<const Scalar<T>*>(args.center));
    check(cudaGetLastError(), "depthwise_backward_input");
    if (args.partials == nullptr) return;
    sum_rows<Scalar<T>>(args.partials, args.sums, t.tiles, 2 * given.groups * given.channels,
                        stream);
  });
}

}  // namespace cuda
}  // namespace ssfnas
