// Images of vectors of channels in scratch memory, and what runs over them from the first levels
// of cache: depthwise filters, products over channels, and both of their gradients.
//
// An image is [vectors][height][width][lanes], so that a pixel's neighbor is one vector away. Lanes
// beyond the last channel are zero. Where channels are few enough that a vector holds several
// pixels, it is [height][width][channels], and a vector of pixels may begin at any of them.
#pragma once

#include "vectors.h"
#include "workspace.h"

namespace ssfnas {
namespace SSFNAS_ISA {

// At a time, so that sums stay in registers, of which AVX-512 has 32 and others 16.
#ifdef __AVX512F__
constexpr int MIXED_PIXELS = 8;  // of two vectors each
constexpr int PRODUCTS = 16;
constexpr int FILTER_ROWS = 5;  // of a 5x5 filter
#else
constexpr int MIXED_PIXELS = 6;
constexpr int PRODUCTS = 8;
constexpr int FILTER_ROWS = 2;
#endif
constexpr int PIXELS = 8;  // of one vector each

template <class S>
SSFNAS_INLINE Vector<S> get(const S* from) {
  return raw_load<Vector<S>>(from);
}

template <class S>
SSFNAS_INLINE void put(S* to, Vector<S> v) {
  raw_store(to, v);
}

// Lines of cache on their way while something else is computed: CPUs guess them within a page.
template <class T>
SSFNAS_INLINE void fetch(const T* values, int64_t size) {
  for (int64_t i = 0; i < size; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(values + i);
}

// Lanes of a pixel's vector number v that hold channels.
template <class S>
SSFNAS_INLINE int64_t lanes_of(int64_t v, int64_t channels) {
  return smaller(lanes<S>, channels - v * lanes<S>);
}

template <class T>
SSFNAS_INLINE Vector<T> load_some(const T* from, int64_t n) {
  return n == lanes<T> ? load(from) : load(from, n);
}

template <class T>
SSFNAS_INLINE void store_some(T* to, Vector<T> v, int64_t n) {
  if (n == lanes<T>)
    store(to, v);
  else
    store(to, v, n);
}

// An image with a border around; `unit` values from a pixel to the next.
template <class S>
struct Image {
  S* values;
  int64_t border, unit, pitch, plane;  // pitch: from row to row; plane: from vector to vector

  static int64_t size(int64_t vectors, int64_t height, int64_t width, int64_t border,
                      int64_t unit = lanes<S>) {
    const int64_t pixels = (height + 2 * border) * (width + 2 * border);
    return vectors * ceil_div(pixels * unit, lanes<S>) * lanes<S>;
  }
  static Image of(S* values, int64_t height, int64_t width, int64_t border,
                  int64_t unit = lanes<S>) {
    const int64_t pitch = (width + 2 * border) * unit;
    return {values, border, unit, pitch, (height + 2 * border) * pitch};
  }
  static Image take(Parts<S>& parts, int64_t vectors, int64_t height, int64_t width,
                    int64_t border, int64_t unit = lanes<S>) {
    return of(parts.take(size(vectors, height, width, border, unit)), height, width, border, unit);
  }
  S* at(int64_t v, int64_t y, int64_t x) const {
    return values + v * plane + (y + border) * pitch + (x + border) * unit;
  }
};

// --- to = sum over taps of filter * from, at pixels in a row

// Taps of a filter: where they are, and a vector of filter values each.
template <class S>
struct Taps {
  const int64_t* offsets;
  const S* filters;
  int64_t count;
};

template <class S, int U, bool ADD>
SSFNAS_INLINE void depthwise_pixels(const S* from, int64_t step, const Taps<S>& taps, S* to,
                                  int64_t to_step) {
  Vector<S> total[U] = {};
  if (ADD)
    for (int u = 0; u < U; ++u) total[u] = get(to + u * to_step);
  for (int64_t t = 0; t < taps.count; ++t) {
    const Vector<S> filter = get(taps.filters + t * lanes<S>);
    const S* at = from + taps.offsets[t];
    // Else each pixel's address is computed anew, in place of a displacement from this one.
    __asm__("" : "+r"(at));
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) total[u] += get(at + u * step) * filter;
  }
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) put(to + u * to_step, total[u]);
}

template <class S, bool ADD>
SSFNAS_INLINE void depthwise_pixels_of_row(const S* from, int64_t step, const Taps<S>& taps, S* to,
                                         int64_t to_step, int64_t count) {
  int64_t x = 0;
  for (; x + PIXELS <= count; x += PIXELS)
    depthwise_pixels<S, PIXELS, ADD>(from + x * step, step, taps, to + x * to_step, to_step);
  for (; x + 4 <= count; x += 4)
    depthwise_pixels<S, 4, ADD>(from + x * step, step, taps, to + x * to_step, to_step);
  for (; x < count; ++x)
    depthwise_pixels<S, 1, ADD>(from + x * step, step, taps, to + x * to_step, to_step);
}

// Pixels are `step` values apart where they are read, and `to_step` where they are written.
template <class S, bool ADD>
void depthwise_row(const S* from, int64_t step, const Taps<S>& taps, S* to, int64_t to_step,
                 int64_t count) {
  // Constants make the addresses part of the instructions.
  if (step == lanes<S>)
    depthwise_pixels_of_row<S, ADD>(from, lanes<S>, taps, to, to_step, count);
  else if (step == 2 * lanes<S>)
    depthwise_pixels_of_row<S, ADD>(from, 2 * lanes<S>, taps, to, to_step, count);
  else
    depthwise_pixels_of_row<S, ADD>(from, step, taps, to, to_step, count);
}

// --- sums[tap] += sum over pixels of from * gradient: a filter's gradient

// UNIT: values from a pixel of the image to the next.
template <class S, int UNIT, int K, int FIRST, int ROWS>
SSFNAS_INLINE void add_filter_rows(const S* from, int64_t pitch, int64_t step, int64_t dilation,
                                   const S* grad, int64_t grad_pitch, int64_t rows, int64_t columns,
                                   S* sums) {
  constexpr int L = lanes<S>;
  Vector<S> total[ROWS * K] = {};
  for (int64_t y = 0; y < rows; ++y) {
    const S* g = grad + y * grad_pitch;
    const S* x = from + y * pitch * (step / L) + FIRST * dilation * pitch;
    for (int64_t i = 0; i < columns; ++i, x += step, g += L) {
      const Vector<S> gradient = get(g);
#pragma GCC unroll 5
      for (int dy = 0; dy < ROWS; ++dy)
#pragma GCC unroll 5
        for (int dx = 0; dx < K; ++dx)
          total[dy * K + dx] += get(x + dy * dilation * pitch + dx * dilation * UNIT) * gradient;
    }
  }
#pragma GCC unroll 25
  for (int t = 0; t < ROWS * K; ++t) {
    S* sum = sums + (FIRST * K + t) * L;
    put(sum, get(sum) + total[t]);
  }
}

template <class S, int UNIT, int K>
SSFNAS_INLINE void add_filter_sums(const S* from, int64_t pitch, int64_t step, int64_t dilation,
                                   const S* grad, int64_t grad_pitch, int64_t rows, int64_t columns,
                                   S* sums) {
  constexpr int ROWS = K == 3 ? 3 : FILTER_ROWS;
  add_filter_rows<S, UNIT, K, 0, ROWS>(from, pitch, step, dilation, grad, grad_pitch, rows, columns,
                                       sums);
  if constexpr (ROWS < K) {
    add_filter_rows<S, UNIT, K, 2, 2>(from, pitch, step, dilation, grad, grad_pitch, rows, columns,
                                      sums);
    add_filter_rows<S, UNIT, K, 4, 1>(from, pitch, step, dilation, grad, grad_pitch, rows, columns,
                                      sums);
  }
}

// `from` is the first tap's place for the first pixel; a tap is `dilation` pixels from the next.
template <class S, int UNIT = lanes<S>>
void add_filter_gradient(int64_t size, const S* from, int64_t pitch, int64_t step,
                         int64_t dilation, const S* grad, int64_t grad_pitch, int64_t rows,
                         int64_t columns, S* sums) {
  constexpr int L = lanes<S>;
  if (size == 3 && dilation == 1)
    add_filter_sums<S, UNIT, 3>(from, pitch, step, 1, grad, grad_pitch, rows, columns, sums);
  else if (size == 3 && dilation == 2)
    add_filter_sums<S, UNIT, 3>(from, pitch, step, 2, grad, grad_pitch, rows, columns, sums);
  else if (size == 5 && dilation == 1)
    add_filter_sums<S, UNIT, 5>(from, pitch, step, 1, grad, grad_pitch, rows, columns, sums);
  else if (size == 5 && dilation == 2)
    add_filter_sums<S, UNIT, 5>(from, pitch, step, 2, grad, grad_pitch, rows, columns, sums);
  else
    for (int64_t dy = 0; dy < size; ++dy)
      for (int64_t dx = 0; dx < size; ++dx)
        add_filter_rows<S, UNIT, 1, 0, 1>(from + dilation * (dy * pitch + dx * UNIT), pitch, step,
                                          dilation, grad, grad_pitch, rows, columns,
                                          sums + (dy * size + dx) * L);
}

// --- products over channels: to[pixel][o] = sum_i from[pixel][i] weights[i][o]

// Channels of one or several tensors side by side, each with lanes of its own.
struct Channels {
  int64_t tensors, each;
};

template <class S, int U, int N, class Put>
SSFNAS_INLINE void mix_pixels(const S* from, int64_t plane, Channels channels, const S* weights,
                              int64_t width, Put put_pixel) {
  constexpr int L = lanes<S>;
  Vector<S> total[N][U] = {};
  for (int64_t tensor = 0; tensor < channels.tensors; ++tensor)
    for (int64_t first = 0; first < channels.each; first += L, from += plane) {
      const int64_t n = smaller(L, channels.each - first);
      for (int64_t i = 0; i < n; ++i, weights += width) {
        Vector<S> weight[N];
        for (int k = 0; k < N; ++k) weight[k] = get(weights + k * L);
#pragma GCC unroll 8
        for (int u = 0; u < U; ++u) {
          const Vector<S> value = everywhere<Vector<S>>(from[u * L + i]);
#pragma GCC unroll 2
          for (int k = 0; k < N; ++k) total[k][u] += value * weight[k];
        }
      }
    }
#pragma GCC unroll 2
  for (int k = 0; k < N; ++k)
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) put_pixel(u, k, total[k][u]);
}

// `from` is [vectors][pixels][lanes], its vectors `plane` apart; `to` likewise.
template <class S>
void mix(const S* from, int64_t plane, Channels channels, const S* weights, int64_t width, S* to,
         int64_t to_plane, int64_t count) {
  constexpr int L = lanes<S>;
  const int64_t vectors = width / L;
  for (int64_t v = 0; v < vectors;) {
    const bool two = v + 2 <= vectors;
    S* out = to + v * to_plane;
    const auto place = [&](int64_t x) {
      return [=](int u, int k, Vector<S> value) {
        put(out + k * to_plane + (x + u) * L, value);
      };
    };
    const S* w = weights + v * L;
    int64_t x = 0;
    for (; x + MIXED_PIXELS <= count; x += MIXED_PIXELS) {
      if (two)
        mix_pixels<S, MIXED_PIXELS, 2>(from + x * L, plane, channels, w, width, place(x));
      else
        mix_pixels<S, MIXED_PIXELS, 1>(from + x * L, plane, channels, w, width, place(x));
    }
    for (; x < count; ++x) {
      if (two)
        mix_pixels<S, 1, 2>(from + x * L, plane, channels, w, width, place(x));
      else
        mix_pixels<S, 1, 1>(from + x * L, plane, channels, w, width, place(x));
    }
    v += two ? 2 : 1;
  }
}

// sums[i][o] += sum over pixels of inputs[pixel][i] outputs[pixel][o]; sums [channels][width]
template <class S>
void add_products(const S* inputs, int64_t plane, const S* outputs, int64_t out_plane,
                  int64_t count, int64_t channels, S* sums, int64_t width) {
  constexpr int L = lanes<S>, B = PRODUCTS < L ? PRODUCTS : L;
  for (int64_t first = 0; first < channels; first += B) {
    const S* in = inputs + first / L * plane + first % L;
    for (int64_t o = 0; o < width; o += L) {
      const S* out = outputs + o / L * out_plane;
      Vector<S> total[B] = {};
      for (int64_t x = 0; x < count; ++x) {
        const Vector<S> value = get(out + x * L);
#pragma GCC unroll 16
        for (int i = 0; i < B; ++i) total[i] += value * everywhere<Vector<S>>(in[x * L + i]);
      }
#pragma GCC unroll 16
      for (int i = 0; i < B; ++i) {
        S* sum = sums + (first + i) * width + o;
        put(sum, get(sum) + total[i]);
      }
    }
  }
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
