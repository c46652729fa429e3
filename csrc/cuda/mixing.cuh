// 1x1 filters and the rows that they mix, in shared memory: products of tiles with a filter.
//
// A row has the channels of a pixel, in the arithmetic of sums. Rows are an odd number of 16-byte
// vectors long: those that neighboring threads read then lie in different banks. For the same
// reason the pixels of a thread's strip are `positions` rows apart, and those of neighboring
// threads side by side.
#pragma once

#include "tiles.cuh"

namespace ssfnas {
namespace cuda {

constexpr int CHUNK = 4;  // channels that a product takes at once

// In scalars; what is beyond the channels has to be zero up to a multiple of CHUNK.
template <class S>
__host__ __device__ inline int row_pitch(int channels) {
  constexpr int FULL_ROW = 16 / static_cast<int>(sizeof(S));
  return (rounded_up(channels, CHUNK) / FULL_ROW | 1) * FULL_ROW;
}

// The bytes of so many rows.
template <class S>
__host__ __device__ inline int row_bytes(int rows, int channels) {
  return rows * row_pitch<S>(channels) * static_cast<int>(sizeof(S));
}

// Positions of strips in a tile, and a thread's among them: no less than that if it has none.
__host__ __device__ inline int positions(const Tiling& t) { return t.rows * (t.across / STRIP); }
__device__ inline int position(const Tiling& t) { return threadIdx.x / t.columns; }

// How many pixels of the image a thread has, the first ones of its strip.
template <int VEC>
__device__ inline int live_pixels(const Tiling& t, const Corner& corner, const Lane<VEC>& lane) {
  const int inside = t.width - (corner.x + lane.strip * STRIP);
  if (position(t) >= positions(t) || corner.y + lane.row >= t.height || inside <= 0) return 0;
  return inside < STRIP ? inside : STRIP;
}

// Zeros where rows have no channels. To be followed by a synchronization.
template <class S>
__device__ inline void clear_ends(S* rows, int count, int channels) {
  const int pitch = row_pitch<S>(channels), rest = pitch - channels;
  for (int i = threadIdx.x; i < count * rest; i += blockDim.x)
    rows[i / rest * pitch + channels + i % rest] = 0;
}

// A filter [outputs, inputs], as rows of inputs for products with their results.
template <class S>
__device__ inline void load_mixing(S* to, const S* from, int channels) {
  const int pitch = row_pitch<S>(channels), size = channels * channels;
  copy_by_threads<4, S>(
      rounded_up(channels, CHUNK) * channels, [&](int i) { return i < size ? from[i] : S(0); },
      [&](int i, S value) { to[i / channels * pitch + i % channels] = value; });
}

// The same, as rows of outputs. A warp takes 8 inputs of 4 outputs: whole sectors of memory, and
// places in shared memory that all lie in different banks.
template <class S>
__device__ inline void load_transposed_mixing(S* to, const S* from, int channels) {
  const int pitch = row_pitch<S>(channels), across = rounded_up(channels, 8) / 8;
  const int inner = threadIdx.x % 8, outer = threadIdx.x % WARP / 8;
  const auto place = [&](int i, int& input, int& output) {
    const int patch = i / WARP, down = patch / across;
    input = (patch - down * across) * 8 + inner, output = down * 4 + outer;
  };
  const auto get = [&](int i) {
    int input, output;
    place(i, input, output);
    return output < channels && input < channels ? from[output * channels + input] : S(0);
  };
  copy_by_threads<4, S>(across * (rounded_up(channels, 4) / 4) * WARP, get, [&](int i, S value) {
    int input, output;
    place(i, input, output);
    if (output < channels && input < rounded_up(channels, CHUNK))
      to[input * pitch + output] = value;
  });
}

// total_o += sum over the rows' channels i of row_o[i] * filter[i]; `step` is from pixel to pixel.
template <class T, int VEC>
__device__ inline void add_mixed(Strip<T, VEC>& total, const Scalar<T>* rows, int step,
                                 const Scalar<T>* filter, int channels, int pitch) {
#pragma unroll 1
  for (int i = 0; i < channels; i += CHUNK) {
    Scalar<T> values[STRIP][CHUNK];
#pragma unroll
    for (int o = 0; o < STRIP; ++o) load_coefficients(values[o], rows + o * step + i);
#pragma unroll
    for (int k = 0; k < CHUNK; ++k) {
      Scalar<T> factor[VEC];
      load_coefficients(factor, filter + (i + k) * pitch);
#pragma unroll
      for (int o = 0; o < STRIP; ++o)
#pragma unroll
        for (int v = 0; v < VEC; ++v) total[o].v[v] += values[o][k] * factor[v];
    }
  }
}

// The threads that have one pixel's channels wait for each other: they are in one warp, mostly.
__device__ inline void synchronize_pixels(const Tiling& t) {
  if (t.columns <= WARP)
    __syncwarp();
  else
    __syncthreads();
}

// The least number of vectors side by side that have all channels.
inline int whole_columns(int64_t channels, int vec) {
  int columns = 1;
  while (columns < channels / vec) columns *= 2;
  return columns;
}

}  // namespace cuda
}  // namespace ssfnas
