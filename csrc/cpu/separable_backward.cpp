// Gradients of separable units on CPUs: an image and a unit at a time, like the units themselves.
//
// Gradients of depthwise results never go to memory. Sums over images are kept for blocks of images
// that depend on shapes alone and added in order, so that results do not depend on the number of
// threads.

#include "separable.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

constexpr int64_t MOST_BLOCKS = 32;     // of images, each with sums of its own
constexpr int64_t LEAST_BLOCKS = 8;
constexpr int64_t MOST_SUMS = 1 << 20;  // over all blocks, while there are more than the least

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
  S *dz, *tile, *row;
  bfloat16* halves;

  static int64_t size(const Sizes& s) {
    return Image<S>::size(s.vectors, s.height, s.width, s.border, s.unit) +
           Image<S>::size(s.vectors, s.out_height, s.out_width, s.out_border, s.unit) +
           Image<S>::size(s.vectors, s.height, s.width, 0, s.unit) + 2 * s.tile() + s.padded + halved(s);
  }
  // Room for what products round, of which there are two to a value.
  static int64_t halved(const Sizes& s) {
    return s.tile() + paired_size<T>(s.vectors + 1, s.rows * s.out_width) / 2;
  }
  static BackwardScratch of(S* memory, const Sizes& s) {
    Parts<S> parts{memory};
    BackwardScratch scratch{};
    scratch.image = Image<S>::take(parts, s.vectors, s.height, s.width, s.border, s.unit);
    scratch.inner =
        Image<S>::take(parts, s.vectors, s.out_height, s.out_width, s.out_border, s.unit);
    clear(memory, parts.next - memory);
    scratch.outer = Image<S>::take(parts, s.vectors, s.height, s.width, 0, s.unit);
    scratch.dz = parts.take(s.tile());
    scratch.tile = parts.take(s.tile());
    scratch.row = parts.take(s.padded);
    scratch.halves = reinterpret_cast<bfloat16*>(parts.take(halved(s)));
    return scratch;
  }

  // p, times the factor of a group and an image where there are factors.
  const S* scaled(const S* p, const S* factors, int64_t g, int64_t n, const Sizes& s) const {
    if (factors == nullptr) return p;
    for (int64_t c = 0; c < s.padded; ++c) row[c] = factors[g * s.images + n] * p[c];
    return row;
  }
};

// dz = p grad + q z + r of `count` pixels, or vectors of them: to[vector][pixel]
template <class T>
void gradient_tile(const T* grad, const T* z, const Coefficients<Scalar<T>>& c, const Sizes& sizes,
                   int64_t count, Scalar<T>* to) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v < sizes.vectors; ++v, to += count * L) {
    const int64_t n = lanes_of<S>(v, sizes.step);
    const Vector<S> p = get(c.p + v * L);
    const T* g = grad + v * L;
    if (c.q == nullptr) {
      for (int64_t x = 0; x < count; ++x)
        put(to + x * L, p * load_some(g + x * sizes.step, n));
      continue;
    }
    const Vector<S> q = get(c.q + v * L), r = get(c.r + v * L);
    const T* from = z + v * L;
    for (int64_t x = 0; x < count; ++x)
      put(to + x * L, p * load_some(g + x * sizes.step, n) +
                          (q * load_some(from + x * sizes.step, n) + r));
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
                      const Mixing<T>& mixing, const Sizes& sizes, const T* grad, const T* z,
                      const Coefficients<Scalar<T>>& coefficients, Scalar<T>* depthwise_sums,
                      Scalar<T>* mixing_sums) {
  constexpr int L = lanes<T>;
  for (int64_t row = 0; row < sizes.out_height; row += sizes.rows) {
    const int64_t rows = smaller(sizes.rows, sizes.out_height - row);
    const int64_t count = rows * sizes.out_columns, plane = count * L;
    const int64_t before = row * sizes.out_width * sizes.channels;
    gradient_tile(grad + before, z + before, coefficients, sizes, count, scratch.dz);
    if (row + rows < sizes.out_height)
      fetch_tile(grad, z, coefficients, sizes, row + rows);
    if (mixing.by_unit()) {
      // Which takes many pixels at a time, and rows may be short.
      mixing(scratch.dz, plane, scratch.tile, plane, count, scratch.halves);
      for (int64_t v = 0; v < sizes.vectors; ++v)
        for (int64_t y = 0; y < rows; ++y)
          __builtin_memcpy(scratch.inner.at(v, row + y, 0),
                           scratch.tile + v * plane + y * sizes.out_columns * L,
                           sizes.out_columns * L * sizeof(Scalar<T>));
    } else {
      for (int64_t y = 0; y < rows; ++y)
        mixing(scratch.dz + y * sizes.out_columns * L, plane, scratch.inner.at(0, row + y, 0),
               scratch.inner.plane, sizes.out_columns, nullptr);
    }
    if (mixing_sums == nullptr) continue;
    depthwise_tile(scratch.image, filters, sizes, row, rows, scratch.tile);
    if (sizes.pack > 1) {
      add_packed_products(scratch.tile, sizes.channels, scratch.dz, count, mixing_sums);
      add_packed_filter_gradient(
          sizes.channels, filters.size,
          scratch.image.at(0, row - filters.reach, -filters.reach), scratch.image.pitch,
          filters.dilation, scratch.inner.at(0, row, 0), scratch.inner.pitch, rows,
          sizes.out_columns, depthwise_sums);
      continue;
    }
    add_pixel_products<T>(scratch.tile, {1, sizes.channels}, scratch.dz, plane, count, mixing_sums,
                          sizes.padded, scratch.halves);
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
        const int64_t count = sizes.pack > 1 ? sizes.columns : ceil_div(sizes.width - x, stride);
        if (!add)
          depthwise_row<S, false>(from, L, taps, to, stride * L, count);
        else if (taps.count > 0)
          depthwise_row<S, true>(from, L, taps, to, stride * L, count);
      }
}

// What sums of an input's gradient need: the input, and what it is shifted by.
template <class T>
struct Sums {
  const T* x;
  const Scalar<T>* center;  // or null, for zeros
  Scalar<T> *s0, *s1;       // null where no sums are wanted
};

// The gradient of the input where it is positive, du, to memory: with what was there before, unless
// `into` is null, and with the sums of du and of du (x - center).
template <class T>
void store_inputs(const BackwardScratch<T>& scratch, const Sizes& sizes, const T* into, T* dx,
                  const Sums<T>& sums) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v < sizes.vectors; ++v) {
    const int64_t n = lanes_of<S>(v, sizes.step);
    const bool summed = sums.s0 != nullptr;
    const Vector<S> center = sums.center == nullptr ? Vector<S>{} : get(sums.center + v * L);
    Vector<S> all0 = {}, all1 = {};
    for (int64_t y = 0; y < sizes.height; ++y) {
      const S* u = scratch.image.at(v, y, 0);
      const S* gradient = scratch.outer.at(v, y, 0);
      const int64_t at = y * sizes.width * sizes.channels + v * L;
      Vector<S> sum0 = {}, sum1 = {};
      for (int64_t x = 0; x < sizes.columns; ++x) {
        const Vector<S> rectified = get(u + x * L);
        Vector<S> value = rectified > 0 ? get(gradient + x * L) : Vector<S>{};
        if (summed) {
          sum0 += value;
          sum1 += value * (load_some(sums.x + at + x * sizes.step, n) - center);
        }
        if (into != nullptr) value += load_some(into + at + x * sizes.step, n);
        store_some(dx + at + x * sizes.step, value, n);
      }
      all0 += sum0;
      all1 += sum1;
    }
    if (!summed) continue;
    put(sums.s0 + v * L, all0);
    put(sums.s1 + v * L, all1);
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
  for (int64_t j = places.depthwise(g); sizes.pack > 1 && j < end; j += L)
    for (int64_t lane = channels; lane < sizes.step; ++lane)
      sums[j + lane % channels] += sums[j + lane];
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
  const Mixings<T> mixings(filters, sizes, true);
  const PaddedRows<S> scale(units.scale, sizes), shift(units.shift, sizes);
  const PaddedRows<S> p(args.p, sizes), q(args.q, sizes), r(args.r, sizes);
  const PaddedRows<S> center(args.center, sizes);
  const S* factors = static_cast<const S*>(args.factors);
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
    [[maybe_unused]] const MatrixUnit<T> unit;
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
          const Coefficients<S> coefficients{scratch.scaled(p.row(g), factors, g, n, sizes),
                                             q.row(g), r.row(g)};
          backward_outputs(scratch, filters[g], mixings[g], sizes, at(g, args.grads),
                           at(g, args.zs), coefficients, wanted ? own + places.depthwise(g) : nullptr,
                           wanted ? own + places.mixing(g) : nullptr);
          if (g + 1 < sizes.groups)
            fetch_tile(at(g + 1, args.grads), at(g + 1, args.zs), coefficients, sizes, 0);
          backward_inputs(scratch.inner, filters[g], sizes, units.shared && g > 0, scratch.outer);
          if (units.shared) continue;
          const int64_t place = n * each + g * sizes.padded;
          const T* x = static_cast<const T*>(units.xs[g]) + n * pixels;
          store_inputs<T>(scratch, sizes, nullptr, static_cast<T*>(args.dxs[g]) + n * pixels,
                          {x, center.row(g), s0.at(place), s1.at(place)});
        }
        if (!units.shared) continue;
        const T* into = static_cast<const T*>(args.into);
        store_inputs<T>(scratch, sizes, into == nullptr ? nullptr : into + n * pixels,
                        static_cast<T*>(args.dxs[0]) + n * pixels, {});
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
        for (int64_t lane = c; lane < sizes.step; lane += sizes.channels) {
          total0 += s0.at(n * each + g * sizes.padded)[lane];
          total1 += s1.at(n * each + g * sizes.padded)[lane];
        }
      }
      static_cast<S*>(args.s0)[g * sizes.channels + c] = static_cast<S>(total0);
      static_cast<S*>(args.s1)[g * sizes.channels + c] = static_cast<S>(total1);
    }
}

}  // namespace

void separable_backward(const SeparableBackward& args, int threads) {
  for_dtype(args.units.dtype, [&](auto value) { backward<decltype(value)>(args, threads); });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
