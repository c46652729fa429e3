// Depthwise filters over tiles in shared memory, and the ReLU before them.
#pragma once

#include "tiles.cuh"

namespace ssfnas {
namespace cuda {

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

// A block's channels of a group's filter into shared memory: [size * size, columns * VEC].
template <int VEC, class S>
__device__ inline void load_filter(S* to, const Filters& filters, int g, const Tiling& t) {
  const S* from = static_cast<const S*>(filters.at[g]);
  const int taps = filters.size[g] * filters.size[g];
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

template <class S>
__host__ __device__ inline int filter_bytes(int taps, int columns, int vec) {
  return rounded_up(taps * columns * vec * static_cast<int>(sizeof(S)), 16);
}

}  // namespace cuda
}  // namespace ssfnas
