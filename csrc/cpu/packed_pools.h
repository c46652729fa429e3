// 3x3 pools of stride 1 with several pixels of few channels to a vector.
//
// Images have a border of a pixel: what no maximum takes, or adds nothing to a sum.
#pragma once

#include "maxima.h"
#include "packed_pixels.h"

namespace ssfnas {
namespace SSFNAS_ISA {

constexpr int64_t AROUND = 1;  // pixels of the border

template <class S>
S lowest() {
  return -S(__builtin_inff());
}

template <class S>
void fill(S* values, int64_t size, S value) {
  for (int64_t i = 0; i < size; ++i) values[i] = value;
}

// How many columns of a window are inside, for each value of a row.
template <class S>
void count_columns(int64_t width, int64_t channels, S* to) {
  for (int64_t x = 0; x < width; ++x)
    for (int64_t c = 0; c < channels; ++c) to[x * channels + c] = S(3 - (x == 0) - (x == width - 1));
}

// Windows of a row, from maxima and sums over the rows of windows.
template <class S>
void pool_columns(const S* largest, const S* sums, const S* counts, int64_t rows, int64_t channels,
                  int64_t columns, S* largest_row, S* average_row) {
  constexpr int L = lanes<S>;
  for (int64_t i = 0; i < columns * L; i += L) {
    const Vector<S> first = get(largest + i - channels), second = get(largest + i);
    put(largest_row + i, maximum(maximum(first, second), get(largest + i + channels)));
    const Vector<S> sum = get(sums + i - channels) + get(sums + i) + get(sums + i + channels);
    put(average_row + i, sum / (S(rows) * get(counts + i)));
  }
}

// The gradient of an image, from those of its maxima and averages.
template <class T>
class PackedPoolGradients {
 public:
  using S = Scalar<T>;
  using V = Vector<S>;

  static int64_t size(int64_t height, int64_t width, int64_t channels) {
    return 4 * Image<S>::size(1, height, width, AROUND, channels) + padded(width * channels);
  }
  PackedPoolGradients(S* memory, int64_t height, int64_t width, int64_t channels)
      : height_(height), width_(width), channels_(channels), columns_(width * channels / L) {
    Parts<S> parts{memory};
    const auto take = [&](S beyond) {
      const auto image = Image<S>::take(parts, 1, height, width, AROUND, channels);
      fill(image.values, parts.next - image.values, beyond);
      return image;
    };
    x_ = take(lowest<S>()), place_ = take(S(-1)), d_largest_ = take(S(0)), d_average_ = take(S(0));
    counts_ = parts.take(padded(width * channels));
    count_columns(width, channels, counts_);
  }

  // dx = both gradients, and `into` where that is given; one of both gradients may be null.
  void operator()(const T* x, const T* d_largest, const T* d_average, const T* into, T* dx) const {
    if (d_largest != nullptr) {
      widen(x, x_);
      widen(d_largest, d_largest_);
      for (int64_t y = 0; y < height_; ++y) find_places(y);
    }
    if (d_average != nullptr)
      for (int64_t y = 0; y < height_; ++y) share_average(d_average, y);
    for (int64_t y = 0; y < height_; ++y)
      for (int64_t i = 0; i < columns_ * L; i += L) {
        const int64_t at = y * width_ * channels_ + i;
        V total = {};
        if (d_largest != nullptr) total = of_maxima(y, i);
        if (d_average != nullptr) total += of_averages(y, i);
        if (into != nullptr) total += load(into + at);
        store(dx + at, total);
      }
  }

 private:
  static constexpr int L = lanes<T>;
  static int64_t padded(int64_t size) { return ceil_div(size, L) * L; }

  void widen(const T* from, const Image<S>& to) const {
    for (int64_t y = 0; y < height_; ++y)
      for (int64_t i = 0; i < columns_ * L; i += L)
        put(to.at(0, y, 0) + i, load(from + y * width_ * channels_ + i));
  }

  // The number in its window of each maximum of a row: 3 times the row, and the column.
  void find_places(int64_t y) const {
    for (int64_t i = 0; i < columns_ * L; i += L) {
      V largest = everywhere<V>(lowest<S>());
      V place = everywhere<V>(S(y == 0 ? 3 : 0));  // of the first pixel inside
      if (i == 0)
        for (int64_t c = 0; c < channels_; ++c) place[c] += 1;
#pragma GCC unroll 3
      for (int dy = 0; dy < 3; ++dy)
#pragma GCC unroll 3
        for (int dx = 0; dx < 3; ++dx) {
          const V value = get(x_.at(0, y + dy - 1, dx - 1) + i);
          const auto better = replaces(value, largest);
          largest = better ? value : largest;
          place = better ? everywhere<V>(S(dy * 3 + dx)) : place;
        }
      put(place_.at(0, y, 0) + i, place);
    }
  }

  void share_average(const T* d_average, int64_t y) const {
    const S rows = S(3 - (y == 0) - (y == height_ - 1));
    for (int64_t i = 0; i < columns_ * L; i += L)
      put(d_average_.at(0, y, 0) + i,
          load(d_average + y * width_ * channels_ + i) / (rows * get(counts_ + i)));
  }

  // Of all windows that hold a pixel, row by row; in each it has another number.
  V of_maxima(int64_t y, int64_t i) const {
    V total = {};
#pragma GCC unroll 9
    for (int number = 8; number >= 0; --number) {
      const int64_t row = y + 1 - number / 3, column = 1 - number % 3;
      const V place = get(place_.at(0, row, column) + i);
      const V gradient = get(d_largest_.at(0, row, column) + i);
      total += place == everywhere<V>(S(number)) ? gradient : V{};
    }
    return total;
  }

  V of_averages(int64_t y, int64_t i) const {
    V total = {};
#pragma GCC unroll 9
    for (int number = 0; number < 9; ++number)
      total += get(d_average_.at(0, y + number / 3 - 1, number % 3 - 1) + i);
    return total;
  }

  int64_t height_, width_, channels_, columns_;
  Image<S> x_, place_, d_largest_, d_average_;
  S* counts_;
};

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
