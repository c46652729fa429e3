// What both passes of separable units take on CPUs: sizes, filters as the loops want them, and the
// way from an input to its depthwise results.
#pragma once

#include "instruction_sets.h"
#include "products.h"

namespace ssfnas {
namespace SSFNAS_ISA {

constexpr int64_t TILE = 2048;          // values of a tile, about: two of them in half an L1

// Sizes that all groups have in common; `L` lanes to a vector.
struct Sizes {
  int64_t groups, images, channels, height, width, stride;
  int64_t pack;                     // pixels that a vector holds: several where channels are few
  int64_t unit;                     // values from a pixel of scratch memory to the next
  int64_t step;                     // values in memory from a vector's pixels to the next
  int64_t vectors, padded;          // channels in vectors, and with the lanes beyond them
  int64_t out_height, out_width;
  int64_t columns, out_columns;     // vectors of pixels in a row
  int64_t border, out_border;       // around inputs, and around gradients of outputs
  int64_t rows;                     // of a tile

  template <class S>
  static Sizes of(const SeparableUnits& units) {
    constexpr int L = lanes<S>;
    Sizes s{};
    s.groups = units.groups, s.images = units.images, s.channels = units.channels;
    s.height = units.height, s.width = units.width, s.stride = units.stride;
    s.pack = s.stride == 1 ? pixels_of_vector<S>(s.channels, s.width) : 1;
    s.unit = s.pack > 1 ? s.channels : L;
    s.step = s.channels * s.pack;
    s.vectors = ceil_div(s.channels, L);
    s.padded = s.vectors * L;
    s.out_height = ceil_div(s.height, s.stride);
    s.out_width = ceil_div(s.width, s.stride);
    for (int64_t g = 0; g < s.groups; ++g)
      s.border = larger(s.border, units.sizes[g] / 2 * units.dilations[g]);
    s.out_border = ceil_div(s.border, s.stride);
    s.columns = s.width / s.pack;
    s.out_columns = s.out_width / s.pack;
    s.rows = smaller(s.out_height, larger(1, TILE / (s.out_columns * s.padded)));
    return s;
  }
  int64_t tile() const { return rows * out_columns * padded; }
  int64_t pixels() const { return height * width; }
  int64_t out_pixels() const { return out_height * out_width; }
};

// A group's filters as the loops want them.
template <class S>
struct Filters {
  int64_t size, dilation, reach, taps;
  const S* depthwise;      // [vectors][taps][lanes]
  const S* mixing;         // [inputs][padded outputs]
  const S* mixing_back;    // [outputs][padded inputs]
  const int64_t* offsets;  // [taps], in the image of the input
  // Pixels of the input, by their place modulo the stride: those of a class have the same taps.
  const int64_t* classes;       // [stride^2 + 1]: the first tap of each
  const S* depthwise_back;      // [vectors][taps][lanes], class by class
  const int64_t* offsets_back;  // [taps], in the image of the output's gradient

  Taps<S> forward_taps(int64_t v) const {
    return {offsets, depthwise + v * taps * lanes<S>, taps};
  }
  Taps<S> back_taps(int64_t v, int64_t k) const {
    return {offsets_back + classes[k], depthwise_back + (v * taps + classes[k]) * lanes<S>,
            classes[k + 1] - classes[k]};
  }
};

template <class S>
class PackedFilters {
 public:
  PackedFilters(const SeparableUnits& units, const Sizes& sizes)
      : filters_(sizes.groups),
        values_(count_values(units, sizes)),
        places_(count_places(units, sizes)) {
    S* values = values_.at(0);
    int64_t* places = places_.at(0);
    for (int64_t g = 0; g < sizes.groups; ++g)
      filters_[g] = pack(units, sizes, g, values, places);
  }
  const Filters<S>& operator[](int64_t g) const { return filters_[g]; }

 private:
  static int64_t taps_of(const SeparableUnits& units, int64_t g) {
    return units.sizes[g] * units.sizes[g];
  }
  static int64_t count_values(const SeparableUnits& units, const Sizes& sizes) {
    int64_t count = 0;
    for (int64_t g = 0; g < sizes.groups; ++g)
      count += 2 * sizes.padded * (taps_of(units, g) + sizes.channels);
    return count;
  }
  static int64_t count_places(const SeparableUnits& units, const Sizes& sizes) {
    int64_t count = 0;
    for (int64_t g = 0; g < sizes.groups; ++g)
      count += 2 * taps_of(units, g) + sizes.stride * sizes.stride + 1;
    return count;
  }

  static Filters<S> pack(const SeparableUnits& units, const Sizes& sizes, int64_t g, S*& values,
                         int64_t*& places) {
    constexpr int64_t L = lanes<S>;
    const int64_t channels = sizes.channels, padded = sizes.padded, stride = sizes.stride;
    const int64_t step = sizes.step;
    const int64_t size = units.sizes[g], dilation = units.dilations[g], taps = size * size;
    const int64_t reach = size / 2 * dilation;
    const S* depthwise = static_cast<const S*>(units.depthwise[g]);
    const S* pointwise = static_cast<const S*>(units.pointwise[g]);
    S* forward = values;
    S* back = forward + padded * taps;
    S* mixing = back + padded * taps;
    S* mixing_back = mixing + channels * padded;
    values = mixing_back + channels * padded;
    int64_t* offsets = places;
    int64_t* offsets_back = offsets + taps;
    int64_t* classes = offsets_back + taps;
    places = classes + stride * stride + 1;

    clear(forward, values - forward);
    const auto copy_tap = [&](int64_t tap, S* to, int64_t place) {
      for (int64_t k = 0; k < sizes.pack; ++k)
        for (int64_t c = 0; c < channels; ++c)
          to[(c / L * taps + place) * L + k * channels + c % L] = depthwise[c * taps + tap];
    };
    const int64_t pitch = (sizes.width + 2 * sizes.border) * sizes.unit;
    for (int64_t tap = 0; tap < taps; ++tap) {
      copy_tap(tap, forward, tap);
      offsets[tap] = (tap / size * dilation - reach) * pitch +
                     (tap % size * dilation - reach) * sizes.unit;
    }
    // Output y reads the input at stride y + dy dilation - reach; each tap is in one class.
    const int64_t out_pitch = (sizes.out_width + 2 * sizes.out_border) * sizes.unit;
    int64_t place = 0;
    for (int64_t k = 0; k < stride * stride; ++k) {
      classes[k] = place;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t y = k / stride + reach - tap / size * dilation;
        const int64_t x = k % stride + reach - tap % size * dilation;
        if (y % stride != 0 || x % stride != 0) continue;
        copy_tap(tap, back, place);
        offsets_back[place++] = y / stride * out_pitch + x / stride * sizes.unit;
      }
    }
    classes[stride * stride] = place;
    for (int64_t k = 0; k < step; k += channels)
      for (int64_t o = 0; o < channels; ++o)
        for (int64_t i = 0; i < channels; ++i) {
          mixing[i * padded + k + o] = pointwise[o * channels + i];
          mixing_back[o * padded + k + i] = pointwise[o * channels + i];
        }
    return {size,    dilation, reach,          taps,        forward, mixing, mixing_back,
            offsets, classes,  back,           offsets_back};
  }

  Workspace<Filters<S>> filters_;
  AlignedWorkspace<S> values_;
  Workspace<int64_t> places_;
};

// The products over channels of all groups: those of the forward pass, or those of the backward one.
template <class T>
class Mixings {
 public:
  Mixings(const PackedFilters<Scalar<T>>& filters, const Sizes& sizes, bool back)
      : each_(Mixing<T>::size(sizes.vectors, sizes.padded)),
        packed_(sizes.groups * each_),
        mixings_(sizes.groups) {
    for (int64_t g = 0; g < sizes.groups; ++g)
      mixings_[g] = Mixing<T>(back ? filters[g].mixing_back : filters[g].mixing,
                              {1, sizes.channels}, sizes.padded, packed_.at(g * each_), sizes.pack);
  }
  const Mixing<T>& operator[](int64_t g) const { return mixings_[g]; }

 private:
  int64_t each_;
  AlignedWorkspace<bfloat16> packed_;
  Workspace<Mixing<T>> mixings_;
};

// Coefficients [groups, channels], again for each pixel of a vector, with zeros in lanes beyond.
template <class S>
class PaddedRows {
 public:
  PaddedRows(const void* values, const Sizes& sizes)
      : given_(values != nullptr),
        padded_(sizes.padded),
        rows_(given_ ? sizes.groups * sizes.padded : 0) {
    if (!given_) return;
    const S* from = static_cast<const S*>(values);
    clear(rows_.at(0), sizes.groups * padded_);
    for (int64_t g = 0; g < sizes.groups; ++g)
      for (int64_t j = 0; j < sizes.step; ++j)
        rows_.at(0)[g * padded_ + j] = from[g * sizes.channels + j % sizes.channels];
  }
  const S* row(int64_t g) const { return given_ ? rows_.at(g * padded_) : nullptr; }

 private:
  bool given_;
  int64_t padded_;
  AlignedWorkspace<S> rows_;
};

// relu(scale x + shift) of an image; NaN stays NaN.
template <class T>
void rectify(const T* x, const Sizes& sizes, const Scalar<T>* scale, const Scalar<T>* shift,
             const Image<Scalar<T>>& to) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v < sizes.vectors; ++v) {
    const int64_t n = lanes_of<S>(v, sizes.step);
    const bool affine = scale != nullptr;
    const Vector<S> a = affine ? get(scale + v * L) : Vector<S>{};
    const Vector<S> b = affine ? get(shift + v * L) : Vector<S>{};
    for (int64_t y = 0; y < sizes.height; ++y) {
      const T* from = x + y * sizes.width * sizes.channels + v * L;
      S* out = to.at(v, y, 0);
      for (int64_t i = 0; i < sizes.columns; ++i) {
        Vector<S> value = load_some(from + i * sizes.step, n);
        if (affine) value = a * value + b;
        put(out + i * L, value < 0 ? Vector<S>{} : value);
      }
    }
  }
}

// D of the rows of a tile: to[vector][pixel]
template <class S>
void depthwise_tile(const Image<S>& image, const Filters<S>& filters, const Sizes& sizes,
                    int64_t row, int64_t rows, S* to) {
  constexpr int L = lanes<S>;
  const int64_t plane = rows * sizes.out_columns * L;
  for (int64_t v = 0; v < sizes.vectors; ++v)
    for (int64_t y = 0; y < rows; ++y)
      depthwise_row<S, false>(image.at(v, (row + y) * sizes.stride, 0), sizes.stride * L,
                            filters.forward_taps(v), to + v * plane + y * sizes.out_columns * L, L,
                            sizes.out_columns);
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
