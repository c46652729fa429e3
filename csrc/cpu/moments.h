// Means and sums of squared deviations of channels, merged in order.
//
// Sets i of n_i values with means m_i and sums of squared deviations q_i have together, by the
// formula of Chan, Golub and LeVeque (1983), n = sum n_i values with
//   m = sum n_i m_i / n  and  q = sum q_i + n_i (m_i - m)^2.
#pragma once

#include "depthwise.h"

namespace ssfnas {
namespace SSFNAS_ISA {

// Mean and sum of squared deviations of `count` values a lane.
template <class S>
struct Moments {
  Vector<S> mean, square;
  int64_t count;
};

// Both together: m = m_a + (m_b - m_a) n_b / n, q = q_a + q_b + (m_b - m_a)^2 n_a n_b / n.
template <class S>
SSFNAS_INLINE Moments<S> merged(const Moments<S>& a, const Moments<S>& b) {
  if (a.count == 0) return b;
  const int64_t count = a.count + b.count;
  const S part = S(b.count) / S(count);
  const Vector<S> shift = b.mean - a.mean;
  return {a.mean + shift * part, a.square + b.square + shift * shift * (part * S(a.count)), count};
}

// Of pixels that lie next to each other.
template <class S>
SSFNAS_INLINE Moments<S> moments_of(const S* values, int64_t count) {
  constexpr int L = lanes<S>;
  Vector<S> sum[2] = {}, square[2] = {};
  int64_t x = 0;
  for (; x + 2 <= count; x += 2)
    for (int u = 0; u < 2; ++u) sum[u] += get(values + (x + u) * L);
  if (x < count) sum[0] += get(values + x * L);
  const Vector<S> mean = (sum[0] + sum[1]) / S(count);
  for (x = 0; x + 2 <= count; x += 2)
    for (int u = 0; u < 2; ++u) {
      const Vector<S> shift = get(values + (x + u) * L) - mean;
      square[u] += shift * shift;
    }
  if (x < count) {
    const Vector<S> shift = get(values + x * L) - mean;
    square[0] += shift * shift;
  }
  return {mean, square[0] + square[1], count};
}

// Of each image and row of channels, [images][rows][width] with `each` values behind a number, to
// those of all images, [rows][channels]. A row may hold `pack` times its channels, one for each
// pixel of a vector.
template <class S>
void merge_images(const S* means, const S* squares, int64_t images, int64_t rows, int64_t width,
                  int64_t channels, int64_t each, S* mean, S* var, int64_t pack = 1) {
  const int64_t sets = images * pack;
  const auto place = [=](int64_t set, int64_t at) {
    return set / pack * rows * width + set % pack * channels + at;
  };
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < channels; ++c) {
      double center = 0, square = 0;
      const int64_t at = row * width + c;
      for (int64_t n = 0; n < sets; ++n) center += means[place(n, at)];
      center /= static_cast<double>(sets);
      for (int64_t n = 0; n < sets; ++n) {
        const double shift = means[place(n, at)] - center;
        square += squares[place(n, at)] + shift * shift * static_cast<double>(each);
      }
      mean[row * channels + c] = static_cast<S>(center);
      var[row * channels + c] = static_cast<S>(square / static_cast<double>(sets * each));
    }
  }
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
