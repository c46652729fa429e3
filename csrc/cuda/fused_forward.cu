// Separable units in one pass: ReLU, depthwise filter, 1x1 filter, and moments of the result.
//
// A block has a tile with all channels, of several groups where they share their input: its
// depthwise results go to shared memory, and from there into products with the group's 1x1 filter.

#include "fused_units.cuh"
#include "tile_moments.cuh"

namespace ssfnas {
namespace cuda {
namespace {

constexpr int64_t ENOUGH_BLOCKS = 512;  // for groups to go one after the other in a block

template <class T, int VEC>
int forward_bytes(const Plan& plan, int stride, int channels, int rows, int across, int columns) {
  using S = Scalar<T>;
  const int strips = rows * (across / STRIP);
  return filter_bytes<S>(plan.taps, columns, VEC) +
         row_bytes<S>(rounded_up(channels, CHUNK), channels) +
         row_bytes<S>(strips * STRIP, channels) +
         TileMoments<S, VEC>::bytes(rounded_up(strips * columns, WARP), columns) +
         box_bytes<T>(reached(0, 0, rows, across, stride, plan.halo), columns, VEC);
}

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS, RESIDENT<T>)
    forward_kernel(const __grid_constant__ Units<T> units, const __grid_constant__ Inputs mixing,
                   T* out, Scalar<T>* partials) {
  using S = Scalar<T>;
  SSFNAS_SHARED_MEMORY(memory);
  const Tiling& t = units.tiling;
  const int channels = t.channels, pitch = row_pitch<S>(channels);
  const int strips = positions(t), strip = position(t);
  const Lane<VEC> lane(t);
  const Corner corner(t, blockIdx.x);
  const int y = corner.y + lane.row, x = corner.x + lane.strip * STRIP;
  const int live = live_pixels(t, corner, lane);
  const bool busy = live > 0 && lane.live;

  S* filter = reinterpret_cast<S*>(memory);
  S* matrix = filter + filter_bytes<S>(units.taps, t.columns, VEC) / sizeof(S);
  S* rows = matrix + rounded_up(channels, CHUNK) * pitch;
  S* room = rows + strips * STRIP * pitch;
  T* pixels = reinterpret_cast<T*>(reinterpret_cast<unsigned char*>(room) +
                                   TileMoments<S, VEC>::bytes(blockDim.x, t.columns));
  const int mine = strip * pitch, step = strips * pitch;
  const int row = units.filters.count * channels;
  T* to = out + units.result(0, corner.image) +
          (static_cast<int64_t>(y) * t.width + x) * channels + lane.channel;

  TileMoments<S, VEC> moments(room, t, live);
  clear_ends(rows, strips * STRIP, channels);
  const int first = units.first(), last = units.last();
  const Box box =
      reached(corner.y, corner.x, t.rows, t.across, units.filters.stride, units.reach(first));
  load_box<VEC>(pixels, box, units.input(first, corner.image), units.height, units.width, t, lane,
                Rectified<T, VEC>{units.normalized(first, lane)});
  const View<T, VEC> view(pixels, filter, box, t, lane, corner);
  for (int g = first; g < last; ++g) {
    __syncthreads();
    if (g > first) moments.store(partials, row, (g - 1) * channels);
    load_filter<VEC>(filter, units.filters, g, t);
    load_transposed_mixing(matrix, static_cast<const S*>(mixing.at[g]), channels);
    __syncthreads();
    if (busy) {
      Strip<T, VEC> inner = {};
      add_group<false, T, VEC>(inner, view, units.filters, g);
#pragma unroll
      for (int o = 0; o < STRIP; ++o) put(rows + (mine + lane.channel + o * step), inner[o].v);
    }
    synchronize_pixels(t);
    Strip<T, VEC> z = {};
    if (busy) {
      add_mixed<T, VEC>(z, rows + mine, step, matrix + lane.channel, channels, pitch);
#pragma unroll
      for (int o = 0; o < STRIP; ++o) {
        if (o < live) store<VEC>(to + (g * units.results + o * channels), z[o]);
        // Moments are of what is stored.
#pragma unroll
        for (int i = 0; i < VEC; ++i) {
          T rounded;
          narrow(z[o].v[i], rounded);
          z[o].v[i] = widened(rounded);
        }
      }
    }
    moments.template add<T>(z, lane.column);
  }
  __syncthreads();
  moments.store(partials, row, (last - 1) * channels);
}

template <class T, int VEC>
Tiling forward_tiling(const SeparableUnits& given) {
  const Plan plan = plan_of(filters_of(given));
  const int stride = static_cast<int>(given.stride), channels = static_cast<int>(given.channels);
  const double each = given.shared ? static_cast<double>(given.groups) : 1;
  return find_tiling(given.images, ceil_div(given.height, given.stride),
                     ceil_div(given.width, given.stride), given.channels, VEC,
                     fused_limits(given.channels, VEC), (plan.taps + channels) * each, 1.0,
                     [&](int rows, int across, int columns) {
                       return forward_bytes<T, VEC>(plan, stride, channels, rows, across, columns);
                     });
}

}  // namespace

bool fused_forward_fits(const SeparableUnits& units) {
  bool fits = units.channels <= FUSED_CHANNELS;
  for_each_width(units, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    fits = fits && forward_tiling<T, decltype(vec)::value>(units).threads > 0;
  });
  return fits;
}

int64_t fused_forward_partials(const SeparableUnits& units) {
  const int64_t tiles = most_of_widths(units, [&](auto tag, auto vec) {
    return forward_tiling<typename decltype(tag)::type, decltype(vec)::value>(units).tiles;
  });
  return tiles * 2 * units.groups * units.channels;
}

void fused_forward(const FusedForward& args, int device, void* stream) {
  const OnDevice guard(device);
  const SeparableUnits& given = args.units;
  for_dtype(given.dtype, wide_fits(given) && aligned(args.out), [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    using S = Scalar<T>;
    constexpr int VEC = decltype(vec)::value;
    Units<T> units = units_of<T>(given);
    units.tiling = forward_tiling<T, VEC>(given);
    const Tiling& t = units.tiling;
    const int groups = units.filters.count;
    if (given.shared) {
      const int64_t splits = ceil_div(ENOUGH_BLOCKS, t.tiles);
      units.together = static_cast<int>(ceil_div(groups, splits < groups ? splits : groups));
    }
    const dim3 grid(blocks(t.tiles), 1, blocks(ceil_div(groups, units.together)));
    const int bytes =
        forward_bytes<T, VEC>(plan_of(units.filters), units.filters.stride, t.channels, t.rows,
                              t.across, t.columns);
    allow_shared(forward_kernel<T, VEC>, bytes);
    SSFNAS_LAUNCH((forward_kernel<T, VEC>), grid, t.threads, bytes, stream, units,
                  inputs(given.pointwise, given.groups), static_cast<T*>(args.out),
                  static_cast<S*>(args.partials));
    check(cudaGetLastError(), "fused_forward");
    merge_tiles<S>(args.partials, args.mean, args.var, t, given.groups * given.channels, stream);
  });
}

}  // namespace cuda
}  // namespace ssfnas
