// Separable units on CPUs: an image and a unit at a time, from the second level of cache.
//
// What a depthwise convolution gives is mixed over channels while it is in the first level of
// cache, and never goes to memory. Moments of images are merged in order, so that results do not
// depend on the number of threads.

#include "moments.h"
#include "separable.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

template <class T>
struct ForwardScratch {
  using S = Scalar<T>;
  Image<S> image;
  S *inner, *mixed;
  bfloat16* halves;

  static int64_t size(const Sizes& s) {
    return Image<S>::size(s.vectors, s.height, s.width, s.border, s.unit) + 3 * s.tile();
  }
  static ForwardScratch of(S* memory, const Sizes& s) {
    Parts<S> parts{memory};
    ForwardScratch scratch{};
    scratch.image = Image<S>::take(parts, s.vectors, s.height, s.width, s.border, s.unit);
    clear(memory, parts.next - memory);
    scratch.inner = parts.take(s.tile());
    scratch.mixed = parts.take(s.tile());
    scratch.halves = reinterpret_cast<bfloat16*>(parts.take(s.tile()));
    return scratch;
  }
};

// z of an image and a group, and its moments.
template <class T>
void forward_image(const ForwardScratch<T>& scratch, const Filters<Scalar<T>>& filters,
                   const Mixing<T>& mixing, const Sizes& sizes, T* z, Scalar<T>* mean,
                   Scalar<T>* square) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t row = 0; row < sizes.out_height; row += sizes.rows) {
    const int64_t rows = smaller(sizes.rows, sizes.out_height - row);
    const int64_t count = rows * sizes.out_columns, plane = count * L;
    const int64_t before = row * sizes.out_columns;
    fetch(z + before * sizes.step, count * sizes.step);
    depthwise_tile(scratch.image, filters, sizes, row, rows, scratch.inner);
    mixing(scratch.inner, plane, scratch.mixed, plane, count, scratch.halves);
    for (int64_t v = 0; v < sizes.vectors; ++v) {
      const S* tile = scratch.mixed + v * plane;
      const Moments<S> all = merged<S>({get(mean + v * L), get(square + v * L), before},
                                       moments_of(tile, count));
      put(mean + v * L, all.mean);
      put(square + v * L, all.square);
      const int64_t n = lanes_of<S>(v, sizes.step);
      T* out = z + before * sizes.step + v * L;
      for (int64_t x = 0; x < count; ++x)
        store_some(out + x * sizes.step, get(tile + x * L), n);
    }
  }
}

template <class T>
void forward(const SeparableForward& args, int threads) {
  using S = Scalar<T>;
  const SeparableUnits& units = args.units;
  const Sizes sizes = Sizes::of<S>(units);
  const PackedFilters<S> filters(units, sizes);
  const Mixings<T> mixings(filters, sizes, false);
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
    [[maybe_unused]] const MatrixUnit<T> unit;
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
        forward_image(scratch, filters[g], mixings[g], sizes, z, means.at(at), squares.at(at));
      }
    }
  }
  merge_images(means.at(0), squares.at(0), sizes.images, sizes.groups, sizes.padded,
               sizes.channels, sizes.out_pixels() / sizes.pack, static_cast<S*>(args.mean),
               static_cast<S*>(args.var), sizes.pack);
}

}  // namespace

void separable_forward(const SeparableForward& args, int threads) {
  for_dtype(args.units.dtype, [&](auto value) { forward<decltype(value)>(args, threads); });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
