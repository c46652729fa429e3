// Tiles of images [N, H, W, C] in shared memory.
//
// A block has one tile of some channels; in it a thread has VEC channels of STRIP neighbors in a
// row. Channels run fastest over threads, then rows: with an odd number of columns in shared memory
// the 16 bytes that neighboring threads load then lie in different banks.
#pragma once

#include "launch.cuh"

namespace ssfnas {
namespace cuda {

constexpr int STRIP = 4;
constexpr int MOST_COLUMNS = 8;    // vectors of channels that are side by side in a block
constexpr int SHARED = 48 * 1024;  // bytes a block may have without asking for more

// How images are cut into tiles; those that a kernel writes, or sums over.
struct Tiling {
  int height, width, channels;
  int packs;          // vectors that a pixel has
  int columns;        // vectors that a block has, a power of two
  int rows, across;   // pixels of a tile; powers of two, `across` a multiple of STRIP
  int down, along;    // tiles of an image
  int64_t tiles;      // of all images
  int channel_tiles;
  int threads;

  __host__ __device__ int items() const { return rows * (across / STRIP) * columns; }
};

// A tile's image and its first pixel.
struct Corner {
  int64_t image;
  int y, x;

  __device__ Corner(const Tiling& t, int64_t tile) {
    const int place = static_cast<int>(tile % (t.down * t.along));
    image = tile / (t.down * t.along);
    y = place / t.along * t.rows;
    x = place % t.along * t.across;
  }
};

// A thread's channels, and with them its place in a block.
template <int VEC>
struct Lane {
  int column, row, strip;
  int channel;
  bool live;  // whether there are such channels

  __device__ explicit Lane(const Tiling& t) {
    column = threadIdx.x & (t.columns - 1);
    const int rest = threadIdx.x / t.columns;
    row = rest & (t.rows - 1);
    strip = rest / t.rows;
    const int pack = blockIdx.y * t.columns + column;
    channel = pack * VEC;
    live = pack < t.packs;
  }
};

// What a thread has of a result: VEC channels of neighbors in a row.
template <class T, int VEC>
using Strip = Values<T, VEC>[STRIP];

// A part of an image, as it lies in shared memory: pixels of `columns` vectors each.
struct Box {
  int y, x, rows, cols;

  __host__ __device__ int pitch() const { return cols | 1; }
  __host__ __device__ int pixels() const { return rows * pitch(); }
};

__host__ __device__ inline int floor_div(int a, int b) {
  return a >= 0 ? a / b : -((b - 1 - a) / b);
}

// What a tile of results needs of the image that a filter reaches `halo` pixels far into.
__host__ __device__ inline Box reached(int y, int x, int rows, int cols, int stride, int halo) {
  return {y * stride - halo, x * stride - halo, (rows - 1) * stride + 1 + 2 * halo,
          (cols - 1) * stride + 1 + 2 * halo};
}

// What a tile of the image needs of the results that it had a part in.
__host__ __device__ inline Box reaching(int y, int x, int rows, int cols, int stride, int halo) {
  const int top = floor_div(y - halo, stride), left = floor_div(x - halo, stride);
  return {top, left, floor_div(y + rows - 1 + halo, stride) - top + 1,
          floor_div(x + cols - 1 + halo, stride) - left + 1};
}

// 16 bytes into shared memory at once. Compilers take some such stores apart, and then the threads
// of a warp meet in a few banks.
__device__ inline void store_shared(void* to, const uint4& bits) {
#ifdef __CUDA_ARCH__
  const auto place = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "r"(place), "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w)
               : "memory");
#else
  memcpy(to, &bits, 16);
#endif
}

// N values into shared memory, at a multiple of 16 bytes if they are one.
template <int N, class S>
__device__ inline void put(S* to, const S (&from)[N]) {
  if constexpr (N * sizeof(S) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 16 / sizeof(S)) {
      uint4 bits;
      memcpy(&bits, from + i, 16);
      store_shared(to + i, bits);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
}

// Calls `put(i, get(i))` for i < count, over the threads of a block. Each has several loads under
// way before it waits for the first of them.
template <int BATCH, class V, class Get, class Put>
__device__ inline void copy_by_threads(int count, Get get, Put put) {
  for (int first = threadIdx.x; first < count; first += BATCH * blockDim.x) {
    V values[BATCH];
#pragma unroll
    for (int k = 0; k < BATCH; ++k) {
      const int i = first + k * blockDim.x;
      values[k] = i < count ? get(i) : V{};
    }
#pragma unroll
    for (int k = 0; k < BATCH; ++k) {
      const int i = first + k * blockDim.x;
      if (i < count) put(i, values[k]);
    }
  }
}

// Copies a box, zeros where it sticks out, each vector changed by `change`. So many loads are under
// way before the first is waited for.
template <int VEC, int BATCH = 4, class T, class Change>
__device__ inline void load_box(T* to, const Box& box, const T* image, int height, int width,
                                const Tiling& t, const Lane<VEC>& lane, Change change) {
  const int step = blockDim.x / t.columns;
  const int down = step / box.cols, along = step - down * box.cols;
  int row = threadIdx.x / t.columns / box.cols;
  int col = threadIdx.x / t.columns - row * box.cols;
  while (row < box.rows) {
    const int first = row, start = col;
    Raw<T, VEC> raw[BATCH];
    const auto inside = [&] {
      const int y = box.y + row, x = box.x + col;
      return lane.live && row < box.rows && y >= 0 && y < height && x >= 0 && x < width;
    };
    const auto advance = [&] {
      row += down, col += along;
      if (col >= box.cols) ++row, col -= box.cols;
    };
#pragma unroll
    for (int k = 0; k < BATCH; ++k, advance()) {
      raw[k] = {};
      const int64_t place = static_cast<int64_t>(box.y + row) * width + box.x + col;
      if (inside()) raw[k] = load_raw<VEC>(image + place * t.channels + lane.channel);
    }
    row = first, col = start;
#pragma unroll
    for (int k = 0; k < BATCH; ++k, advance()) {
      if (row >= box.rows) continue;
      Values<T, VEC> values{};
      if (inside()) values = change(widened(raw[k]));
      T changed[VEC];
#pragma unroll
      for (int i = 0; i < VEC; ++i) narrow(values.v[i], changed[i]);
      put(to + ((row * box.pitch() + col) * t.columns + lane.column) * VEC, changed);
    }
  }
}

struct Unchanged {
  template <class V>
  __device__ V operator()(const V& values) const {
    return values;
  }
};

__host__ __device__ inline int rounded_up(int value, int to) {
  return (value + to - 1) / to * to;
}

// Bytes of a box in shared memory, such that what follows is aligned.
template <class T>
__host__ __device__ inline int box_bytes(const Box& box, int columns, int vec) {
  return rounded_up(box.pixels() * columns * vec * static_cast<int>(sizeof(T)), 16);
}

// What a tiling may have: vectors side by side, and bytes of shared memory for a block.
struct Limits {
  int least_columns = 1, most_columns;
  int64_t bytes = SHARED;
};

// The tiling with the least work: `bytes(rows, across, columns)` is what a block needs of shared
// memory and loads `reads` times, `work` the products of each of its results. Without threads where
// no tile fits.
template <class Bytes>
Tiling find_tiling(int64_t images, int64_t height, int64_t width, int64_t channels, int vec,
                   const Limits& limits, double work, double reads, Bytes bytes) {
  Tiling best{};
  double least = 0;
  const int64_t packs = channels / vec;
  for (int columns = limits.least_columns; columns <= limits.most_columns && columns < 2 * packs;
       columns *= 2)
    for (int across = STRIP; across <= 32 && (across == STRIP || across < 2 * width); across *= 2)
      for (int rows = 1; rows <= 32 && rows < 2 * height; rows *= 2) {
        Tiling t{};
        t.rows = rows, t.across = across, t.columns = columns;
        const int64_t size = bytes(rows, across, columns);
        if (t.items() > THREADS || size > limits.bytes) continue;
        t.height = static_cast<int>(height), t.width = static_cast<int>(width);
        t.channels = static_cast<int>(channels), t.packs = static_cast<int>(packs);
        t.down = static_cast<int>(ceil_div(height, rows));
        t.along = static_cast<int>(ceil_div(width, across));
        t.tiles = images * t.down * t.along;
        t.channel_tiles = static_cast<int>(ceil_div(packs, columns));
        t.threads = rounded_up(t.items(), WARP);
        // Memory is read in sectors of 32 bytes, and a block waits for others however small it is.
        const double sectors = columns == 1 && packs > 1 ? 2 : 1;
        const double cost = static_cast<double>(t.tiles) * t.channel_tiles *
                            ((t.threads + 2 * WARP) * STRIP * work + reads * sectors * size);
        if (best.threads == 0 || cost < least) best = t, least = cost;
      }
  return best;
}

// The same where something has to fit: with at most `most_columns` vectors side by side.
template <class Bytes>
Tiling best_tiling(int64_t images, int64_t height, int64_t width, int64_t channels, int vec,
                   int most_columns, double work, Bytes bytes) {
  const Tiling best = find_tiling(images, height, width, channels, vec, Limits{1, most_columns},
                                  work, 1.0, bytes);
  if (best.threads == 0)
    throw std::invalid_argument("a filter reaches too far for one block of a GPU");
  if (best.channel_tiles > 65535)
    throw std::invalid_argument("a tensor has too many channels for one launch");
  return best;
}

}  // namespace cuda
}  // namespace ssfnas
