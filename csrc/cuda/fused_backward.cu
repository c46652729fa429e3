// Gradients of 1x1 filters and of what they mix, in one pass over the gradients of their results.
//
// A block goes over tiles of one group. dz = p f grad + q z + r and, where the filter wants a
// gradient, the depthwise results, computed again, are rows in shared memory; their products over
// pixels add up in registers. What blocks have is summed in order: the same call gives the same bits.

#include "fused_units.cuh"
#include "tile_sums.cuh"

namespace ssfnas {
namespace cuda {
namespace {

constexpr int64_t BLOCKS = 2048;         // over tiles and groups
constexpr int64_t FILTER_BLOCKS = 512;   // each leaves a sum of the size of a filter

// dz = p f grad + q z + r
template <class T>
struct Terms {
  Inputs grads, zs;
  const Scalar<T>* p;  // [G, C]
  const Scalar<T>* q;  // [G, C], or null together with r
  const Scalar<T>* r;
  const Scalar<T>* f;  // [G, images], or null for ones
  int64_t images;

  // The first `live` pixels of an image's strip; zeros for the others.
  template <int VEC>
  __device__ void load_strip(Strip<T, VEC>& dz, int g, int64_t image, int64_t row, int64_t place,
                             int channels, int live) const {
    const T* grad = static_cast<const T*>(grads.at[g]) + place;
    Scalar<T> factor[VEC];
    load_coefficients(factor, p + row);
    if (f != nullptr)
#pragma unroll
      for (int i = 0; i < VEC; ++i) factor[i] *= f[g * images + image];
#pragma unroll
    for (int o = 0; o < STRIP; ++o)
      dz[o] = o < live ? load<VEC>(grad + o * channels) : Values<T, VEC>{};
#pragma unroll
    for (int o = 0; o < STRIP; ++o)
#pragma unroll
      for (int i = 0; i < VEC; ++i) dz[o].v[i] *= factor[i];
    if (q == nullptr) return;
    const T* result = static_cast<const T*>(zs.at[g]) + place;
    Strip<T, VEC> z;
#pragma unroll
    for (int o = 0; o < STRIP; ++o)
      z[o] = o < live ? load<VEC>(result + o * channels) : Values<T, VEC>{};
    Scalar<T> constant[VEC];
    load_coefficients(factor, q + row);
    load_coefficients(constant, r + row);
#pragma unroll
    for (int o = 0; o < STRIP; ++o)
#pragma unroll
      for (int i = 0; i < VEC; ++i)
        if (o < live) dz[o].v[i] += factor[i] * z[o].v[i] + constant[i];
  }
};

// How many squares of CHUNK by CHUNK a filter's gradient has. A thread has one, and of the pixels
// every so-manieth: as many threads as there are `sharers` share a square.
__host__ __device__ inline int squares(int channels) {
  const int side = (channels + CHUNK - 1) / CHUNK;
  return side * side;
}

template <class S>
__device__ inline void add_products(S (&sums)[CHUNK][CHUNK], const S* dz, const S* inner,
                                    int pixels, int channels) {
  const int pitch = row_pitch<S>(channels), side = (channels + CHUNK - 1) / CHUNK;
  const int sharers = blockDim.x / squares(channels), sharer = threadIdx.x / squares(channels);
  const int square = threadIdx.x % squares(channels);
  dz += square / side * CHUNK, inner += square % side * CHUNK;
  if (sharer >= sharers) return;
#pragma unroll 2
  for (int pixel = sharer; pixel < pixels; pixel += sharers) {
    S left[CHUNK], right[CHUNK];
    load_coefficients(left, dz + pixel * pitch);
    load_coefficients(right, inner + pixel * pitch);
#pragma unroll
    for (int a = 0; a < CHUNK; ++a)
#pragma unroll
      for (int b = 0; b < CHUNK; ++b) sums[a][b] += left[a] * right[b];
  }
}

// The block's sums, [outputs, inputs].
template <class S>
__device__ inline void store_products(S* to, const S (&sums)[CHUNK][CHUNK], S* room, int channels) {
  __syncthreads();
#pragma unroll
  for (int a = 0; a < CHUNK; ++a)
#pragma unroll
    for (int b = 0; b < CHUNK; ++b) room[(a * CHUNK + b) * blockDim.x + threadIdx.x] = sums[a][b];
  __syncthreads();
  const int side = (channels + CHUNK - 1) / CHUNK, sharers = blockDim.x / squares(channels);
  for (int i = threadIdx.x; i < channels * channels; i += blockDim.x) {
    const int output = i / channels, input = i - output * channels;
    const S* from = room + (output % CHUNK * CHUNK + input % CHUNK) * blockDim.x +
                    output / CHUNK * side + input / CHUNK;
    S total = 0;
    for (int sharer = 0; sharer < sharers; ++sharer) total += from[sharer * squares(channels)];
    to[i] = total;
  }
}

template <class T, int VEC, bool FILTERS>
int backward_bytes(const Plan& plan, int stride, int channels, int rows, int across, int columns) {
  using S = Scalar<T>;
  int bytes = row_bytes<S>(rounded_up(channels, CHUNK), channels) +
              row_bytes<S>(rows * across, channels);
  if (!FILTERS) return bytes;
  bytes += row_bytes<S>(rows * across, channels) + filter_bytes<S>(plan.taps, columns, VEC) +
           box_bytes<T>(reached(0, 0, rows, across, stride, plan.halo), columns, VEC);
  const int sums = THREADS * CHUNK * CHUNK * static_cast<int>(sizeof(S));
  return bytes > sums ? bytes : sums;
}

template <class T, int VEC, bool FILTERS>
__global__ void __launch_bounds__(THREADS, RESIDENT<T>)
    backward_kernel(const __grid_constant__ Units<T> units, const __grid_constant__ Inputs mixing,
                    const __grid_constant__ Terms<T> terms, T* dd, Scalar<T>* partials) {
  using S = Scalar<T>;
  SSFNAS_SHARED_MEMORY(memory);
  const Tiling& t = units.tiling;
  const int g = blockIdx.z, channels = t.channels, pitch = row_pitch<S>(channels);
  const int strips = positions(t), strip = position(t), pixels = strips * STRIP;
  const int step = strips * pitch;
  const int64_t row = static_cast<int64_t>(g) * channels;
  const Lane<VEC> lane(t);
  const bool placed = strip < strips && lane.live;

  S* matrix = reinterpret_cast<S*>(memory);
  S* dz_rows = matrix + rounded_up(channels, CHUNK) * pitch;
  S* inner_rows = dz_rows + pixels * pitch;
  S* filter = inner_rows + pixels * pitch;
  T* image = reinterpret_cast<T*>(filter + filter_bytes<S>(units.taps, t.columns, VEC) / sizeof(S));
  const int mine = strip * pitch + lane.channel;

  load_mixing(matrix, static_cast<const S*>(mixing.at[g]), channels);
  clear_ends(dz_rows, pixels, channels);
  if constexpr (FILTERS) {
    clear_ends(inner_rows, pixels, channels);
    load_filter<VEC>(filter, units.filters, g, t);
  }
  __syncthreads();
  S sums[CHUNK][CHUNK] = {};
  for (int64_t tile = blockIdx.x; tile < t.tiles; tile += gridDim.x) {
    const Corner corner(t, tile);
    const Box box = reached(corner.y, corner.x, t.rows, t.across, units.filters.stride,
                            units.filters.halo(g));
    if constexpr (FILTERS) {
      __syncthreads();
      // Fewer loads at once where a vector has more values: ptxas would spill registers.
      load_box<VEC, (VEC > 4 ? 2 : 4)>(image, box, units.input(g, corner.image), units.height,
                                       units.width, t, lane,
                                       Rectified<T, VEC>{units.normalized(g, lane)});
    }
    const int y = corner.y + lane.row, x = corner.x + lane.strip * STRIP;
    const int live = lane.live ? live_pixels(t, corner, lane) : 0;
    const int64_t place =
        ((corner.image * t.height + y) * t.width + x) * channels + lane.channel;
    Strip<T, VEC> values = {};
    if (live > 0)
      terms.template load_strip<VEC>(values, g, FILTERS ? corner.image : y, row + lane.channel,
                                     place, channels, live);
    if constexpr (!FILTERS) synchronize_pixels(t);
    if (placed)
#pragma unroll
      for (int o = 0; o < STRIP; ++o) put(dz_rows + mine + o * step, values[o].v);
    if constexpr (FILTERS)
      __syncthreads();
    else
      synchronize_pixels(t);
    if (live > 0) {
      Strip<T, VEC> total = {};
      add_mixed<T, VEC>(total, dz_rows + strip * pitch, step, matrix + lane.channel, channels,
                        pitch);
      T* to = dd + units.result(g, 0) + place;
#pragma unroll
      for (int o = 0; o < STRIP; ++o)
        if (o < live) store<VEC>(to + o * channels, total[o]);
    }
    if constexpr (FILTERS) {
      if (placed) {
        Strip<T, VEC> inner = {};
        if (live > 0)
          add_group<false, T, VEC>(inner, View<T, VEC>(image, filter, box, t, lane, corner),
                                   units.filters, g);
#pragma unroll
        for (int o = 0; o < STRIP; ++o) {
          // Zero times infinity is not zero.
          if (o >= live) inner[o] = {};
          put(inner_rows + mine + o * step, inner[o].v);
        }
      }
      __syncthreads();
      add_products(sums, dz_rows, inner_rows, pixels, channels);
    }
  }
  if constexpr (FILTERS) {
    const int64_t size = static_cast<int64_t>(channels) * channels;
    store_products(partials + (static_cast<int64_t>(blockIdx.x) * gridDim.z + g) * size, sums,
                   reinterpret_cast<S*>(memory), channels);
  }
}

// Tiles of images, or of all of them as rows of one where no depthwise results are needed.
template <class T, int VEC, bool FILTERS>
Tiling backward_tiling(const SeparableUnits& given) {
  const Plan plan = plan_of(filters_of(given));
  const int stride = static_cast<int>(given.stride), channels = static_cast<int>(given.channels);
  const int64_t height = ceil_div(given.height, given.stride);
  const int64_t width = ceil_div(given.width, given.stride);
  const auto bytes = [&](int rows, int across, int columns) {
    return backward_bytes<T, VEC, FILTERS>(plan, stride, channels, rows, across, columns);
  };
  const Limits limits = fused_limits(given.channels, VEC);
  if (!FILTERS)
    return find_tiling(1, given.images, height * width, given.channels, VEC, limits, channels, 0.0,
                       bytes);
  Tiling t = find_tiling(given.images, height, width, given.channels, VEC, limits,
                         plan.taps + 2 * channels, 1.0, bytes);
  if (t.threads > 0 && t.threads < squares(channels))
    t.threads = rounded_up(squares(channels), WARP);
  return t;
}

int64_t blocks_of_group(const Tiling& t, int64_t groups, int64_t all) {
  const int64_t most = all / groups < 1 ? 1 : all / groups;
  return t.tiles < most ? t.tiles : most;
}

template <class T, int VEC, bool FILTERS>
void run(const FusedBackward& args, void* stream) {
  using S = Scalar<T>;
  const SeparableUnits& given = args.units;
  Units<T> units = units_of<T>(given);
  units.tiling = backward_tiling<T, VEC, FILTERS>(given);
  const Tiling& t = units.tiling;
  units.out_height = t.height, units.out_width = t.width;
  const Terms<T> terms{inputs(args.grads, given.groups),
                       args.q != nullptr ? inputs(args.zs, given.groups) : Inputs{},
                       static_cast<const S*>(args.p), static_cast<const S*>(args.q),
                       static_cast<const S*>(args.r), static_cast<const S*>(args.factors),
                       given.images};
  const int64_t parts = blocks_of_group(t, given.groups, FILTERS ? FILTER_BLOCKS : BLOCKS);
  const int bytes = backward_bytes<T, VEC, FILTERS>(plan_of(units.filters), units.filters.stride,
                                                    t.channels, t.rows, t.across, t.columns);
  allow_shared(backward_kernel<T, VEC, FILTERS>, bytes);
  SSFNAS_LAUNCH((backward_kernel<T, VEC, FILTERS>), dim3(blocks(parts), 1, units.filters.count),
                t.threads, bytes, stream, units, inputs(given.pointwise, given.groups), terms,
                static_cast<T*>(args.dd), static_cast<S*>(args.partials));
  check(cudaGetLastError(), "fused_backward");
  if (FILTERS)
    sum_rows<S>(args.partials, args.dw, parts, given.groups * given.channels * given.channels,
                stream);
}

}  // namespace

bool fused_backward_fits(const SeparableUnits& units) {
  bool fits = units.channels <= FUSED_CHANNELS;
  for_each_width(units, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    fits = fits && backward_tiling<T, VEC, false>(units).threads > 0 &&
           backward_tiling<T, VEC, true>(units).threads > 0;
  });
  return fits;
}

int64_t fused_backward_partials(const SeparableUnits& units) {
  const int64_t parts = most_of_widths(units, [&](auto tag, auto vec) {
    const Tiling t =
        backward_tiling<typename decltype(tag)::type, decltype(vec)::value, true>(units);
    return blocks_of_group(t, units.groups, FILTER_BLOCKS);
  });
  return parts * units.groups * units.channels * units.channels;
}

void fused_backward(const FusedBackward& args, int device, void* stream) {
  const OnDevice guard(device);
  const SeparableUnits& given = args.units;
  const bool wide = wide_fits(given) && aligned(args.dd) && aligned(args.grads, given.groups) &&
                    aligned(args.p) && aligned(args.q) && aligned(args.r) &&
                    (args.q == nullptr || aligned(args.zs, given.groups));
  for_dtype(given.dtype, wide, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    if (args.dw != nullptr)
      run<T, VEC, true>(args, stream);
    else
      run<T, VEC, false>(args, stream);
  });
}

}  // namespace cuda
}  // namespace ssfnas
