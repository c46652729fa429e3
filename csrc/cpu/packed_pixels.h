// Several pixels of few channels to a vector: products over channels, and both of their gradients.
//
// With 4 channels to 16 lanes three of four would be idle otherwise. A vector is [pixels][channels],
// as memory is, and so are weights and sums, again for each pixel.
#pragma once

#include "depthwise.h"

namespace ssfnas {
namespace SSFNAS_ISA {

// How many pixels of a row that has so many a vector holds; 1 where they do not fill vectors.
template <class S>
int64_t pixels_of_vector(int64_t channels, int64_t width) {
  constexpr int64_t L = lanes<S>;
  if ((channels != 4 && channels != 8) || channels >= L || width % (L / channels) != 0) return 1;
  return L / channels;
}

// Channel i of each pixel, everywhere in that pixel.
template <int C, class V>
SSFNAS_INLINE V of_channel(V v, int i) {
  constexpr int count = sizeof(V) / sizeof(v[0]);
  V all = {};
  for (int j = 0; j < count; ++j) all[j] = v[j / C * C + i];
  return all;
}

template <class S, int C>
SSFNAS_INLINE void mix_packed_by(const S* from, const S* weights, S* to, int64_t count) {
  constexpr int L = lanes<S>;
  Vector<S> weight[C];
#pragma GCC unroll 8
  for (int i = 0; i < C; ++i) weight[i] = get(weights + i * L);
  for (int64_t x = 0; x < count; ++x) {
    const Vector<S> value = get(from + x * L);
    Vector<S> total = {};
#pragma GCC unroll 8
    for (int i = 0; i < C; ++i) total += of_channel<C>(value, i) * weight[i];
    put(to + x * L, total);
  }
}

// to[pixel][o] = sum_i from[pixel][i] weights[i][o]
template <class S>
void mix_packed(const S* from, int64_t channels, const S* weights, S* to, int64_t count) {
  if constexpr (lanes<S> > 4) if (channels == 4) mix_packed_by<S, 4>(from, weights, to, count);
  if constexpr (lanes<S> > 8) if (channels == 8) mix_packed_by<S, 8>(from, weights, to, count);
}

template <class S, int C>
SSFNAS_INLINE void add_packed_products_by(const S* inputs, const S* outputs, int64_t count,
                                          S* sums) {
  constexpr int L = lanes<S>;
  Vector<S> total[C] = {};
  for (int64_t x = 0; x < count; ++x) {
    const Vector<S> input = get(inputs + x * L), output = get(outputs + x * L);
#pragma GCC unroll 8
    for (int i = 0; i < C; ++i) total[i] += of_channel<C>(input, i) * output;
  }
#pragma GCC unroll 8
  for (int i = 0; i < C; ++i) put(sums + i * L, get(sums + i * L) + total[i]);
}

// sums[i][o] += sum over pixels of inputs[pixel][i] outputs[pixel][o], for each pixel of a vector
template <class S>
void add_packed_products(const S* inputs, int64_t channels, const S* outputs, int64_t count,
                         S* sums) {
  if constexpr (lanes<S> > 4)
    if (channels == 4) add_packed_products_by<S, 4>(inputs, outputs, count, sums);
  if constexpr (lanes<S> > 8)
    if (channels == 8) add_packed_products_by<S, 8>(inputs, outputs, count, sums);
}

// add_filter_gradient with stride 1, for each pixel of a vector
template <class S>
void add_packed_filter_gradient(int64_t channels, int64_t size, const S* from, int64_t pitch,
                                int64_t dilation, const S* grad, int64_t grad_pitch, int64_t rows,
                                int64_t columns, S* sums) {
  constexpr int L = lanes<S>;
  if constexpr (L > 4)
    if (channels == 4)
      add_filter_gradient<S, 4>(size, from, pitch, L, dilation, grad, grad_pitch, rows, columns,
                                sums);
  if constexpr (L > 8)
    if (channels == 8)
      add_filter_gradient<S, 8>(size, from, pitch, L, dilation, grad, grad_pitch, rows, columns,
                                sums);
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
