// Tiles of images [N, H, W, C] in shared memory, and depthwise convolutions over them.
//
// A block has one tile of some channels; in it a thread has VEC channels of STRIP neighbors in a
// row. Channels run fastest over threads, then rows: with an odd number of columns in shared memory
// the 16 bytes that neighboring threads load then lie in different banks.
#pragma once

#include "launch.cuh"

// What has another meaning where kernels are run without a GPU, in tests.
#ifndef SSFNAS_LAUNCH
#define SSFNAS_LAUNCH(kernel, grid, threads, bytes, stream, ...) \
  kernel<<<grid, threads, bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define SSFNAS_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace ssfnas {
namespace cuda {

constexpr int STRIP = 4;
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

// N coefficients, aligned like the vectors that they belong to.
template <int N, class S>
__device__ inline void load_coefficients(S (&to)[N], const S* from) {
  if constexpr (N * sizeof(S) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < N * static_cast<int>(sizeof(S)) / 16; ++i) {
      const uint4 bits = reinterpret_cast<const uint4*>(from)[i];
      memcpy(to + i * (16 / sizeof(S)), &bits, 16);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
}

// u = scale x + shift for a thread's channels, or x itself.
template <class T, int VEC>
struct Normalized {
  Scalar<T> scale[VEC], shift[VEC];

  __device__ Normalized(const Scalar<T>* scales, const Scalar<T>* shifts, int64_t row,
                        const Lane<VEC>& lane) {
#pragma unroll
    for (int i = 0; i < VEC; ++i) scale[i] = 1, shift[i] = 0;
    if (scales == nullptr || !lane.live) return;
    load_coefficients(scale, scales + row + lane.channel);
    load_coefficients(shift, shifts + row + lane.channel);
  }
  __device__ Values<T, VEC> operator()(Values<T, VEC> values) const {
#pragma unroll
    for (int i = 0; i < VEC; ++i) values.v[i] = scale[i] * values.v[i] + shift[i];
    return values;
  }
};

// relu(u); NaN stays NaN.
template <class T, int VEC>
struct Rectified {
  Normalized<T, VEC> normalized;

  __device__ Values<T, VEC> operator()(const Values<T, VEC>& x) const {
    Values<T, VEC> values = normalized(x);
#pragma unroll
    for (int i = 0; i < VEC; ++i)
      if (values.v[i] < 0) values.v[i] = 0;
    return values;
  }
};

// The depthwise filters of all groups; a kernel's argument.
struct Filters {
  const void* at[MAX_INPUTS];      // [C, size, size]
  unsigned char size[MAX_INPUTS];
  unsigned char dilation[MAX_INPUTS];
  int count, stride;

  __host__ __device__ int halo(int g) const { return dilation[g] * (size[g] / 2); }
};

// A block's channels of a filter into shared memory: [size * size, columns * VEC].
template <int VEC, class S>
__device__ inline void load_filter(S* to, const S* from, int taps, const Tiling& t) {
  const int width = t.columns * VEC, first = blockIdx.y * width;
  const auto get = [&](int i) {
    const int tap = i / width, channel = first + i - tap * width;
    return channel < t.channels ? from[static_cast<int64_t>(channel) * taps + tap] : S(0);
  };
  copy_by_threads<4, S>(taps * width, get, [&](int i, S value) { to[i] = value; });
}

// Where a thread reads: its pixel (y, x) is one of the tiled image, not of the box.
template <class T, int VEC>
struct View {
  const T* box;              // at the thread's column
  const Scalar<T>* filter;   // at the thread's column
  int pitch, step;           // of rows in pixels, of pixels in values
  int top, left;             // the box's first pixel
  int y, x;

  __device__ View(const T* memory, const Scalar<T>* filters, const Box& from, const Tiling& t,
                  const Lane<VEC>& lane, const Corner& corner)
      : box(memory + lane.column * VEC),
        filter(filters + lane.column * VEC),
        pitch(from.pitch()),
        step(t.columns * VEC),
        top(from.y),
        left(from.x),
        y(corner.y + lane.row),
        x(corner.x + lane.strip * STRIP) {}
};

template <class T, int VEC>
using Strip = Values<T, VEC>[STRIP];

// Whether sizes and strides of filters are known to the compiler: not where speed does not count.
template <class T, int VEC>
constexpr bool UNROLLED = VEC > 1 && sizeof(T) <= 4;

template <class T, int VEC>
__device__ inline void add_product(Values<T, VEC>& to, const Scalar<T>* a, const Values<T, VEC>& b) {
#pragma unroll
  for (int i = 0; i < VEC; ++i) to.v[i] += a[i] * b.v[i];
}

// total_o += sum_k f_k box(o stride + k dilation - padding), or with the box's pixel that such a
// pixel o comes from (TRANSPOSED).
template <bool TRANSPOSED, int SIZE, int DILATION, int STRIDE, class T, int VEC>
__device__ inline void add_filter(Strip<T, VEC>& total, const View<T, VEC>& view) {
  constexpr int PADDING = DILATION * (SIZE / 2);
  constexpr int FIRST = TRANSPOSED ? -(PADDING / STRIDE) : -PADDING;
  constexpr int LAST =
      TRANSPOSED ? (STRIP - 1 + PADDING) / STRIDE : (STRIP - 1) * STRIDE + PADDING;
  const int column = (TRANSPOSED ? view.x / STRIDE : view.x * STRIDE) - view.left;
#pragma unroll 1
  for (int ky = 0; ky < SIZE; ++ky) {
    const int offset = ky * DILATION - PADDING;
    if (TRANSPOSED && (view.y - offset) % STRIDE != 0) continue;
    const int row = (TRANSPOSED ? (view.y - offset) / STRIDE : view.y * STRIDE + offset) - view.top;
    Scalar<T> filter[SIZE][VEC];
#pragma unroll
    for (int kx = 0; kx < SIZE; ++kx)
      load_coefficients(filter[kx], view.filter + (ky * SIZE + kx) * view.step);
    const T* from = view.box + (row * view.pitch + column) * view.step;
#pragma unroll
    for (int j = FIRST; j <= LAST; ++j) {
      const Values<T, VEC> value = load<VEC>(from + j * view.step);
#pragma unroll
      for (int o = 0; o < STRIP; ++o)
#pragma unroll
        for (int kx = 0; kx < SIZE; ++kx) {
          const int reach = kx * DILATION - PADDING;
          if (TRANSPOSED ? STRIDE * j == o - reach : j == o * STRIDE + reach)
            add_product<T, VEC>(total[o], filter[kx], value);
        }
    }
  }
}

template <bool TRANSPOSED, class T, int VEC>
__device__ inline void add_any_filter(Strip<T, VEC>& total, const View<T, VEC>& view, int size,
                                       int dilation, int stride) {
  for (int ky = 0; ky < size; ++ky) {
    const int offset = (ky - size / 2) * dilation;
    if (TRANSPOSED && (view.y - offset) % stride != 0) continue;
    const int row = (TRANSPOSED ? (view.y - offset) / stride : view.y * stride + offset) - view.top;
    for (int kx = 0; kx < size; ++kx) {
      const int reach = (kx - size / 2) * dilation;
      Scalar<T> filter[VEC];
      load_coefficients(filter, view.filter + (ky * size + kx) * view.step);
#pragma unroll
      for (int o = 0; o < STRIP; ++o) {
        const int x = view.x + o;
        if (TRANSPOSED && (x - reach) % stride != 0) continue;
        const int column = (TRANSPOSED ? (x - reach) / stride : x * stride + reach) - view.left;
        const T* from = view.box + (row * view.pitch + column) * view.step;
        add_product<T, VEC>(total[o], filter, load<VEC>(from));
      }
    }
  }
}

// Calls `function(Number<SIZE>, Number<DILATION>, Number<STRIDE>)` for the usual filters where that
// is UNROLLED, and with zeros for the others.
template <bool USUAL, class Function>
__device__ inline void for_filter(int size, int dilation, int stride, Function function) {
  if constexpr (USUAL) {
    const int kind = (stride - 1) * 4 + (dilation - 1) * 2 + (size == 5);
    const bool usual = stride <= 2 && dilation <= 2 && (size == 3 || size == 5);
    switch (usual ? kind : -1) {
      case 0: return function(Number<3>{}, Number<1>{}, Number<1>{});
      case 1: return function(Number<5>{}, Number<1>{}, Number<1>{});
      case 2: return function(Number<3>{}, Number<2>{}, Number<1>{});
      case 3: return function(Number<5>{}, Number<2>{}, Number<1>{});
      case 4: return function(Number<3>{}, Number<1>{}, Number<2>{});
      case 5: return function(Number<5>{}, Number<1>{}, Number<2>{});
      case 6: return function(Number<3>{}, Number<2>{}, Number<2>{});
      case 7: return function(Number<5>{}, Number<2>{}, Number<2>{});
      default: break;
    }
  }
  function(Number<0>{}, Number<0>{}, Number<0>{});
}

template <bool TRANSPOSED, class T, int VEC>
__device__ inline void add_group(Strip<T, VEC>& total, const View<T, VEC>& view,
                                 const Filters& filters, int g) {
  const int size = filters.size[g], dilation = filters.dilation[g], stride = filters.stride;
  for_filter<UNROLLED<T, VEC>>(size, dilation, stride, [&](auto s, auto d, auto st) {
    if constexpr (decltype(s)::value == 0)
      add_any_filter<TRANSPOSED, T, VEC>(total, view, size, dilation, stride);
    else
      add_filter<TRANSPOSED, decltype(s)::value, decltype(d)::value, decltype(st)::value, T, VEC>(
          total, view);
  });
}

__host__ __device__ inline int rounded_up(int value, int to) {
  return (value + to - 1) / to * to;
}

// Bytes of a box in shared memory, such that what follows is aligned.
template <class T>
__host__ __device__ inline int box_bytes(const Box& box, int columns, int vec) {
  return rounded_up(box.pixels() * columns * vec * static_cast<int>(sizeof(T)), 16);
}

template <class S>
__host__ __device__ inline int filter_bytes(int taps, int columns, int vec) {
  return rounded_up(taps * columns * vec * static_cast<int>(sizeof(S)), 16);
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
                   int most_columns, double work, double reads, Bytes bytes) {
  const Tiling best = find_tiling(images, height, width, channels, vec, Limits{1, most_columns},
                                  work, reads, bytes);
  if (best.threads == 0)
    throw std::invalid_argument("a filter reaches too far for one block of a GPU");
  if (best.channel_tiles > 65535)
    throw std::invalid_argument("a tensor has too many channels for one launch");
  return best;
}

}  // namespace cuda
}  // namespace ssfnas
