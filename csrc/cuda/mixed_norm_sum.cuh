// How blocks of GPUs walk over [outer, channels, inner] for statistics and sums of channels.
//
// A block has a fixed set of channels and goes over several pixels.
#pragma once

#include "launch.cuh"

namespace ssfnas {
namespace cuda {

// How a tensor is laid out over blocks. Where channels lie next to each other, a block is
// `columns` vectors of channels wide and goes down the pixels; else it has one channel.
struct ChannelTiling {
  int64_t channels, inner;
  int64_t packs;     // vectors a pixel has (channels inner), or a channel of a sample
  int64_t height;    // pixels, or vectors that a channel has in all samples
  int64_t splits;    // blocks over the height
  int64_t tiles;     // blocks over the channels
  int columns;       // a power of two
};

inline ChannelTiling channel_tiling(const Extent& extent, int vec) {
  ChannelTiling t{};
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

inline Extent merged(const Extent& extent) {
  if (extent.channels > 1) return extent;
  return {1, 1, extent.outer * extent.inner};
}

inline bool wide_fits(const Extent& extent, int vec) {
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

  __device__ explicit Spot(const ChannelTiling& t) {
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
  __device__ explicit Factors(const S* from) { load_coefficients(v, from); }
  __device__ S at(int i) const { return v[N == 1 ? 0 : i]; }
};

// Calls `function(Tag<T>, Number<VEC>, Number<INNER>, tiling)`.
template <class Function>
void for_layout(Dtype dtype, const Extent& extent, bool is_aligned, Function function) {
  const bool wide = is_aligned && wide_fits(extent, full_of(dtype));
  for_dtype(dtype, wide, [&](auto tag, auto vec) {
    const ChannelTiling tiles = channel_tiling(extent, decltype(vec)::value);
    if (extent.inner == 1)
      function(tag, vec, Number<1>{}, tiles);
    else
      function(tag, vec, Number<0>{}, tiles);
  });
}

inline dim3 grid_of(const ChannelTiling& tiles, int64_t depth = 1) {
  return dim3(blocks(tiles.splits), blocks(tiles.tiles), blocks(depth));
}

}  // namespace cuda
}  // namespace ssfnas
