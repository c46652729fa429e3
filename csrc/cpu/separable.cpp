// Separable units on CPUs: an image and a unit at a time, from the second level of cache.
//
// What a depthwise convolution gives is mixed over channels while it is in the first level of
// cache, and never goes to memory; neither do gradients between the two. Sums over images are kept
// for blocks of images that depend on shapes alone and added in order, so that results do not
// depend on the number of threads.

#include "instruction_sets.h"
#include "depthwise.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

constexpr int64_t TILE = 2048;          // values of a tile, about: two of them in half an L1
constexpr int64_t MOST_BLOCKS = 32;     // of images, each with sums of its own
constexpr int64_t LEAST_BLOCKS = 8;
constexpr int64_t MOST_SUMS = 1 << 20;  // over all blocks, while there are more than the least

// Sizes that all groups have in common; `L` lanes to a vector.
struct Sizes {
  int64_t groups, images, channels, height, width, stride;
  int64_t vectors, padded;          // channels in vectors, and with the lanes beyond them
  int64_t out_height, out_width;
  int64_t border, out_border;       // around inputs, and around gradients of outputs
  int64_t rows;                     // of a tile

  template <class S>
  static Sizes of(const SeparableUnits& units) {
    constexpr int L = lanes<S>;
    Sizes s{};
    s.groups = units.groups, s.images = units.images, s.channels = units.channels;
    s.height = units.height, s.width = units.width, s.stride = units.stride;
    s.vectors = ceil_div(s.channels, L);
    s.padded = s.vectors * L;
    s.out_height = ceil_div(s.height, s.stride);
    s.out_width = ceil_div(s.width, s.stride);
    for (int64_t g = 0; g < s.groups; ++g)
      s.border = larger(s.border, units.sizes[g] / 2 * units.dilations[g]);
    s.out_border = ceil_div(s.border, s.stride);
    s.rows = smaller(s.out_height, larger(1, TILE / (s.out_width * s.padded)));
    return s;
  }
  int64_t tile() const { return rows * out_width * padded; }
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
      for (int64_t c = 0; c < channels; ++c)
        to[(c / L * taps + place) * L + c % L] = depthwise[c * taps + tap];
    };
    const int64_t pitch = (sizes.width + 2 * sizes.border) * L;
    for (int64_t tap = 0; tap < taps; ++tap) {
      copy_tap(tap, forward, tap);
      offsets[tap] = (tap / size * dilation - reach) * pitch + (tap % size * dilation - reach) * L;
    }
    // Output y reads the input at stride y + dy dilation - reach; each tap is in one class.
    const int64_t out_pitch = (sizes.out_width + 2 * sizes.out_border) * L;
    int64_t place = 0;
    for (int64_t k = 0; k < stride * stride; ++k) {
      classes[k] = place;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t y = k / stride + reach - tap / size * dilation;
        const int64_t x = k % stride + reach - tap % size * dilation;
        if (y % stride != 0 || x % stride != 0) continue;
        copy_tap(tap, back, place);
        offsets_back[place++] = y / stride * out_pitch + x / stride * L;
      }
    }
    classes[stride * stride] = place;
    for (int64_t o = 0; o < channels; ++o)
      for (int64_t i = 0; i < channels; ++i) {
        mixing[i * padded + o] = pointwise[o * channels + i];
        mixing_back[o * padded + i] = pointwise[o * channels + i];
      }
    return {size,    dilation, reach,          taps,        forward, mixing, mixing_back,
            offsets, classes,  back,           offsets_back};
  }

  Workspace<Filters<S>> filters_;
  AlignedWorkspace<S> values_;
  Workspace<int64_t> places_;
};

// Coefficients [groups, channels] with zeros in the lanes beyond.
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
      for (int64_t c = 0; c < sizes.channels; ++c)
        rows_.at(0)[g * padded_ + c] = from[g * sizes.channels + c];
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
    const int64_t n = lanes_of<S>(v, sizes.channels);
    const bool affine = scale != nullptr;
    const Vector<S> a = affine ? get(scale + v * L) : Vector<S>{};
    const Vector<S> b = affine ? get(shift + v * L) : Vector<S>{};
    for (int64_t y = 0; y < sizes.height; ++y) {
      const T* from = x + y * sizes.width * sizes.channels + v * L;
      S* out = to.at(v, y, 0);
      for (int64_t i = 0; i < sizes.width; ++i) {
        Vector<S> value = load_some(from + i * sizes.channels, n);
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
  const int64_t plane = rows * sizes.out_width * L;
  for (int64_t v = 0; v < sizes.vectors; ++v)
    for (int64_t y = 0; y < rows; ++y)
      depthwise_row<S, false>(image.at(v, (row + y) * sizes.stride, 0), sizes.stride * L,
                            filters.forward_taps(v), to + v * plane + y * sizes.out_width * L, L,
                            sizes.out_width);
}

// --- forward

template <class T>
struct ForwardScratch {
  using S = Scalar<T>;
  Image<S> image;
  S *inner, *mixed, *means, *squares;

  static int64_t size(const Sizes& s) {
    return Image<S>::size(s.vectors, s.height, s.width, s.border) + 2 * s.tile() + 2 * s.padded;
  }
  static ForwardScratch of(S* memory, const Sizes& s) {
    Parts<S> parts{memory};
    const int64_t image = Image<S>::size(s.vectors, s.height, s.width, s.border);
    ForwardScratch scratch{};
    scratch.image = Image<S>::of(parts.take(image), s.height, s.width, s.border);
    scratch.inner = parts.take(s.tile());
    scratch.mixed = parts.take(s.tile());
    clear(scratch.image.values, image);
    return scratch;
  }
};

// z of an image and a group, and its moments.
template <class T>
void forward_image(const ForwardScratch<T>& scratch, const Filters<Scalar<T>>& filters,
                   const Sizes& sizes, T* z, Scalar<T>* mean, Scalar<T>* square) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t row = 0; row < sizes.out_height; row += sizes.rows) {
    const int64_t rows = smaller(sizes.rows, sizes.out_height - row);
    const int64_t count = rows * sizes.out_width, plane = count * L;
    const int64_t before = row * sizes.out_width;
    fetch(z + before * sizes.channels, count * sizes.channels);
    depthwise_tile(scratch.image, filters, sizes, row, rows, scratch.inner);
    mix(scratch.inner, plane, sizes.channels, filters.mixing, sizes.padded, scratch.mixed, plane,
        count);
    for (int64_t v = 0; v < sizes.vectors; ++v) {
      const S* tile = scratch.mixed + v * plane;
      const Moments<S> all = merged<S>({get(mean + v * L), get(square + v * L), before},
                                       moments_of(tile, count));
      put(mean + v * L, all.mean);
      put(square + v * L, all.square);
      const int64_t n = lanes_of<S>(v, sizes.channels);
      T* out = z + before * sizes.channels + v * L;
      for (int64_t x = 0; x < count; ++x)
        store_some(out + x * sizes.channels, get(tile + x * L), n);
    }
  }
}

template <class T>
void forward(const SeparableForward& args, int threads) {
  using S = Scalar<T>;
  const SeparableUnits& units = args.units;
  const Sizes sizes = Sizes::of<S>(units);
  const PackedFilters<S> filters(units, sizes);
  const PaddedRows<S> scale(units.scale, sizes), shift(units.shift, sizes);
  const int64_t each = sizes.groups * sizes.padded;
  const AlignedWorkspace<S> means(sizes.images * each), squares(sizes.images * each);
  const int64_t size = ForwardScratch<T>::size(sizes);
  threads = threads_for(sizes.images * sizes.pixels() * each, threads);
  const AlignedWorkspace<S> memory(threads * size);
  // One rectified image serves all groups, unless there are too few images to go round.
  const bool together = units.shared && sizes.images >= threads;
  const int64_t parts = together ? 1 : sizes.groups;
#pragma omp parallel num_threads(threads)
  {
    const auto scratch = ForwardScratch<T>::of(memory.at(this_thread() * size), sizes);
#pragma omp for schedule(dynamic, 1)
    for (int64_t item = 0; item < sizes.images * parts; ++item) {
      const int64_t n = item / parts, first = together ? 0 : item % parts;
      const int64_t last = together ? sizes.groups : first + 1;
      const T* x = static_cast<const T*>(units.xs[units.shared ? 0 : first]);
      rectify(x + n * sizes.pixels() * sizes.channels, sizes, scale.row(first), shift.row(first),
              scratch.image);
      for (int64_t g = first; g < last; ++g) {
        T* z = static_cast<T*>(args.zs[g]) + n * sizes.out_pixels() * sizes.channels;
        const int64_t at = n * each + g * sizes.padded;
        forward_image(scratch, filters[g], sizes, z, means.at(at), squares.at(at));
      }
    }
  }
  merge_images(means.at(0), squares.at(0), sizes.images, sizes.groups, sizes.padded,
               sizes.channels, sizes.out_pixels(), static_cast<S*>(args.mean),
               static_cast<S*>(args.var));
}

// --- backward

template <class S>
struct Coefficients {  // of a group: dz = p grad + q z + r
  const S *p, *q, *r;
};

// Where sums of the filters' gradients are within those of a block: [taps][padded] in vectors,
// then [inputs][padded outputs].
class Places {
 public:
  Places(const SeparableUnits& units, const Sizes& sizes, bool wanted)
      : places_(sizes.groups + 1), padded_(sizes.padded) {
    places_[0] = 0;
    for (int64_t g = 0; g < sizes.groups; ++g) {
      const int64_t taps = units.sizes[g] * units.sizes[g];
      places_[g + 1] = places_[g] + (wanted ? padded_ * (taps + padded_) : 0);
    }
    size_ = places_[sizes.groups];
  }
  int64_t depthwise(int64_t g) const { return places_[g]; }
  int64_t mixing(int64_t g) const { return places_[g + 1] - padded_ * padded_; }
  int64_t size() const { return size_; }

 private:
  Workspace<int64_t> places_;
  int64_t padded_, size_;
};

template <class T>
struct BackwardScratch {
  using S = Scalar<T>;
  Image<S> image;  // rectified
  Image<S> inner;  // gradient of D
  Image<S> outer;  // gradient of the rectified image
  S *dz, *tile;

  static int64_t size(const Sizes& s) {
    return Image<S>::size(s.vectors, s.height, s.width, s.border) +
           Image<S>::size(s.vectors, s.out_height, s.out_width, s.out_border) +
           Image<S>::size(s.vectors, s.height, s.width, 0) + 2 * s.tile();
  }
  static BackwardScratch of(S* memory, const Sizes& s) {
    Parts<S> parts{memory};
    const int64_t image = Image<S>::size(s.vectors, s.height, s.width, s.border);
    const int64_t inner = Image<S>::size(s.vectors, s.out_height, s.out_width, s.out_border);
    const int64_t outer = Image<S>::size(s.vectors, s.height, s.width, 0);
    BackwardScratch scratch{};
    scratch.image = Image<S>::of(parts.take(image), s.height, s.width, s.border);
    scratch.inner = Image<S>::of(parts.take(inner), s.out_height, s.out_width, s.out_border);
    scratch.outer = Image<S>::of(parts.take(outer), s.height, s.width, 0);
    scratch.dz = parts.take(s.tile());
    scratch.tile = parts.take(s.tile());
    clear(scratch.image.values, image + inner);
    return scratch;
  }
};

// dz = p grad + q z + r of `count` pixels: to[vector][pixel]
template <class T>
void gradient_tile(const T* grad, const T* z, const Coefficients<Scalar<T>>& c, const Sizes& sizes,
                   int64_t count, Scalar<T>* to) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v < sizes.vectors; ++v, to += count * L) {
    const int64_t n = lanes_of<S>(v, sizes.channels);
    const Vector<S> p = get(c.p + v * L);
    const T* g = grad + v * L;
    if (c.q == nullptr) {
      for (int64_t x = 0; x < count; ++x)
        put(to + x * L, p * load_some(g + x * sizes.channels, n));
      continue;
    }
    const Vector<S> q = get(c.q + v * L), r = get(c.r + v * L);
    const T* from = z + v * L;
    for (int64_t x = 0; x < count; ++x)
      put(to + x * L, p * load_some(g + x * sizes.channels, n) +
                          (q * load_some(from + x * sizes.channels, n) + r));
  }
}

// What the tile from a row on will be computed from.
template <class T>
void fetch_tile(const T* grad, const T* z, const Coefficients<Scalar<T>>& c, const Sizes& sizes,
                int64_t row) {
  const int64_t rows = smaller(sizes.rows, sizes.out_height - row);
  const int64_t pixels = sizes.out_width * sizes.channels;
  fetch(grad + row * pixels, rows * pixels);
  if (c.q != nullptr) fetch(z + row * pixels, rows * pixels);
}

// Gradient of D of an image and a group, and, unless `sums` is null, of its filters.
template <class T>
void backward_outputs(const BackwardScratch<T>& scratch, const Filters<Scalar<T>>& filters,
                      const Sizes& sizes, const T* grad, const T* z,
                      const Coefficients<Scalar<T>>& coefficients, Scalar<T>* depthwise_sums,
                      Scalar<T>* mixing_sums) {
  constexpr int L = lanes<T>;
  for (int64_t row = 0; row < sizes.out_height; row += sizes.rows) {
    const int64_t rows = smaller(sizes.rows, sizes.out_height - row);
    const int64_t count = rows * sizes.out_width, plane = count * L;
    const int64_t before = row * sizes.out_width * sizes.channels;
    gradient_tile(grad + before, z + before, coefficients, sizes, count, scratch.dz);
    if (row + rows < sizes.out_height)
      fetch_tile(grad, z, coefficients, sizes, row + rows);
    for (int64_t y = 0; y < rows; ++y)
      mix(scratch.dz + y * sizes.out_width * L, plane, sizes.channels, filters.mixing_back,
          sizes.padded, scratch.inner.at(0, row + y, 0), scratch.inner.plane, sizes.out_width);
    if (mixing_sums == nullptr) continue;
    depthwise_tile(scratch.image, filters, sizes, row, rows, scratch.tile);
    add_products(scratch.tile, plane, scratch.dz, plane, count, sizes.channels, mixing_sums,
                 sizes.padded);
    for (int64_t v = 0; v < sizes.vectors; ++v)
      add_filter_gradient(filters.size,
                          scratch.image.at(v, row * sizes.stride - filters.reach, -filters.reach),
                          scratch.image.pitch, sizes.stride * L, filters.dilation,
                          scratch.inner.at(v, row, 0), scratch.inner.pitch, rows, sizes.out_width,
                          depthwise_sums + v * filters.taps * L);
  }
}

// Gradient of the rectified image from that of D; added if `add` is set.
template <class S>
void backward_inputs(const Image<S>& inner, const Filters<S>& filters, const Sizes& sizes, bool add,
                     const Image<S>& outer) {
  constexpr int L = lanes<S>;
  const int64_t stride = sizes.stride;
  for (int64_t v = 0; v < sizes.vectors; ++v)
    for (int64_t y = 0; y < sizes.height; ++y)
      for (int64_t x = 0; x < smaller(stride, sizes.width); ++x) {
        const Taps<S> taps = filters.back_taps(v, y % stride * stride + x);
        const S* from = inner.at(v, y / stride, 0);
        S* to = outer.at(v, y, x);
        const int64_t count = ceil_div(sizes.width - x, stride);
        if (!add)
          depthwise_row<S, false>(from, L, taps, to, stride * L, count);
        else if (taps.count > 0)
          depthwise_row<S, true>(from, L, taps, to, stride * L, count);
      }
}

// The gradient of the input where it is positive, and what was there before, to memory.
template <class T>
void store_inputs(const BackwardScratch<T>& scratch, const Sizes& sizes, const T* into, T* dx) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v < sizes.vectors; ++v) {
    const int64_t n = lanes_of<S>(v, sizes.channels);
    for (int64_t y = 0; y < sizes.height; ++y) {
      const S* u = scratch.image.at(v, y, 0);
      const S* gradient = scratch.outer.at(v, y, 0);
      const int64_t at = y * sizes.width * sizes.channels + v * L;
      for (int64_t x = 0; x < sizes.width; ++x) {
        Vector<S> value = get(u + x * L) > 0 ? get(gradient + x * L) : Vector<S>{};
        if (into != nullptr) value += load_some(into + at + x * sizes.channels, n);
        store_some(dx + at + x * sizes.channels, value, n);
      }
    }
  }
}

// The same for an input of its own, and the sums of du and of du u.
template <class T>
void store_own_inputs(const BackwardScratch<T>& scratch, const Sizes& sizes, T* dx, Scalar<T>* s0,
                      Scalar<T>* s1) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v < sizes.vectors; ++v) {
    const int64_t n = lanes_of<S>(v, sizes.channels);
    Vector<S> all0 = {}, all1 = {};
    for (int64_t y = 0; y < sizes.height; ++y) {
      const S* u = scratch.image.at(v, y, 0);
      const S* gradient = scratch.outer.at(v, y, 0);
      T* out = dx + y * sizes.width * sizes.channels + v * L;
      Vector<S> sum0 = {}, sum1 = {};
      for (int64_t x = 0; x < sizes.width; ++x) {
        const Vector<S> rectified = get(u + x * L);
        const Vector<S> value = rectified > 0 ? get(gradient + x * L) : Vector<S>{};
        sum0 += value;
        sum1 += value * rectified;  // u itself wherever the value is not zero
        store_some(out + x * sizes.channels, value, n);
      }
      all0 += sum0;
      all1 += sum1;
    }
    put(s0 + v * L, all0);
    put(s1 + v * L, all1);
  }
}

// Adds the filters' gradients of all blocks up, in order.
template <class S>
void sum_filters(const SeparableBackward& args, const Sizes& sizes, const Places& places, S* sums,
                 int64_t blocks, int64_t g) {
  constexpr int L = lanes<S>;
  const int64_t channels = sizes.channels, taps = args.units.sizes[g] * args.units.sizes[g];
  const int64_t end = places.mixing(g) + sizes.padded * sizes.padded;
  for (int64_t j = places.depthwise(g); j < end; j += L) {
    Vector<S> total = {};
    for (int64_t block = 0; block < blocks; ++block) total += get(sums + block * places.size() + j);
    put(sums + j, total);
  }
  const S* depthwise = sums + places.depthwise(g);
  const S* mixing = sums + places.mixing(g);
  S* d_depthwise = static_cast<S*>(args.d_depthwise[g]);
  S* d_pointwise = static_cast<S*>(args.d_pointwise[g]);
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t t = 0; t < taps; ++t)
      d_depthwise[c * taps + t] = depthwise[(c / L * taps + t) * L + c % L];
  for (int64_t o = 0; o < channels; ++o)
    for (int64_t i = 0; i < channels; ++i)
      d_pointwise[o * channels + i] = mixing[i * sizes.padded + o];
}

template <class T>
void backward(const SeparableBackward& args, int threads) {
  using S = Scalar<T>;
  const SeparableUnits& units = args.units;
  const Sizes sizes = Sizes::of<S>(units);
  const PackedFilters<S> filters(units, sizes);
  const PaddedRows<S> scale(units.scale, sizes), shift(units.shift, sizes);
  const PaddedRows<S> p(args.p, sizes), q(args.q, sizes), r(args.r, sizes);
  const bool wanted = args.d_depthwise != nullptr;
  const Places places(units, sizes, wanted);
  int64_t blocks = smaller(sizes.images, MOST_BLOCKS);
  while (wanted && blocks > LEAST_BLOCKS && blocks * places.size() > MOST_SUMS)
    blocks = larger(LEAST_BLOCKS, blocks / 2);
  if (!wanted) blocks = sizes.images;
  const AlignedWorkspace<S> sums(blocks * places.size());
  const int64_t each = units.shared ? 0 : sizes.groups * sizes.padded;
  const AlignedWorkspace<S> s0(sizes.images * each), s1(sizes.images * each);
  const int64_t size = BackwardScratch<T>::size(sizes);
  threads = threads_for(sizes.images * sizes.pixels() * sizes.groups * sizes.padded, threads);
  const AlignedWorkspace<S> memory(threads * size);
  const int64_t pixels = sizes.pixels() * sizes.channels;
  const int64_t out_pixels = sizes.out_pixels() * sizes.channels;
#pragma omp parallel num_threads(threads)
  {
    const auto scratch = BackwardScratch<T>::of(memory.at(this_thread() * size), sizes);
#pragma omp for schedule(dynamic, 1)
    for (int64_t block = 0; block < blocks; ++block) {
      S* own = sums.at(block * places.size());
      clear(own, places.size());
      const int64_t end = (block + 1) * sizes.images / blocks;
      for (int64_t n = block * sizes.images / blocks; n < end; ++n) {
        for (int64_t g = 0; g < sizes.groups; ++g) {
          if (g == 0 || !units.shared)
            rectify(static_cast<const T*>(units.xs[g]) + n * pixels, sizes, scale.row(g),
                    shift.row(g), scratch.image);
          const auto at = [&](int64_t group, const void* const* of) {
            return static_cast<const T*>(of[group]) + n * out_pixels;
          };
          const Coefficients<S> coefficients{p.row(g), q.row(g), r.row(g)};
          backward_outputs(scratch, filters[g], sizes, at(g, args.grads), at(g, args.zs),
                           coefficients, wanted ? own + places.depthwise(g) : nullptr,
                           wanted ? own + places.mixing(g) : nullptr);
          if (g + 1 < sizes.groups)
            fetch_tile(at(g + 1, args.grads), at(g + 1, args.zs), coefficients, sizes, 0);
          backward_inputs(scratch.inner, filters[g], sizes, units.shared && g > 0, scratch.outer);
          if (units.shared) continue;
          const int64_t place = n * each + g * sizes.padded;
          store_own_inputs(scratch, sizes, static_cast<T*>(args.dxs[g]) + n * pixels,
                           s0.at(place), s1.at(place));
        }
        if (!units.shared) continue;
        const T* into = static_cast<const T*>(args.into);
        store_inputs(scratch, sizes, into == nullptr ? nullptr : into + n * pixels,
                     static_cast<T*>(args.dxs[0]) + n * pixels);
      }
    }
    if (wanted) {
#pragma omp for schedule(static)
      for (int64_t g = 0; g < sizes.groups; ++g)
        sum_filters(args, sizes, places, sums.at(0), blocks, g);
    }
  }
  if (units.shared) return;
  for (int64_t g = 0; g < sizes.groups; ++g)
    for (int64_t c = 0; c < sizes.channels; ++c) {
      double total0 = 0, total1 = 0;
      for (int64_t n = 0; n < sizes.images; ++n) {
        total0 += s0.at(n * each + g * sizes.padded)[c];
        total1 += s1.at(n * each + g * sizes.padded)[c];
      }
      static_cast<S*>(args.s0)[g * sizes.channels + c] = static_cast<S>(total0);
      static_cast<S*>(args.s1)[g * sizes.channels + c] = static_cast<S>(total1);
    }
}

}  // namespace

void separable_forward(const SeparableForward& args, int threads) {
  SSFNAS_FOR_DTYPE(args.units.dtype, forward<T>(args, threads));
}

void separable_backward(const SeparableBackward& args, int threads) {
  SSFNAS_FOR_DTYPE(args.units.dtype, backward<T>(args, threads));
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
