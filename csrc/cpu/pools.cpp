// 3x3 maxima and averages of one read, and both of their gradients, on CPUs.

#include "depthwise.h"
#include "instruction_sets.h"
#include "maxima.h"
#include "moments.h"
#include "packed_pools.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

constexpr int WINDOW = 3;

struct PoolSizes {
  int64_t images, height, width, channels, stride, vectors, padded, out_height, out_width;
  int64_t pack;  // pixels that a vector holds: several where channels are few

  template <class S, class Arguments>
  static PoolSizes of(const Arguments& args) {
    const int64_t vectors = ceil_div(args.channels, lanes<S>);
    return {args.images,
            args.height,
            args.width,
            args.channels,
            args.stride,
            vectors,
            vectors * lanes<S>,
            ceil_div(args.height, args.stride),
            ceil_div(args.width, args.stride),
            args.stride == 1 ? pixels_of_vector<S>(args.channels, args.width) : 1};
  }
  int64_t columns() const { return width / pack; }
  int64_t out_columns() const { return out_width / pack; }
  int64_t step() const { return channels * pack; }
  int64_t pixels() const { return height * width * channels; }
  int64_t out_pixels() const { return out_height * out_width * channels; }
};

// The part of a window that is inside: [first, last) around the middle, in an axis of that length.
struct Span {
  int64_t first, last;
  static Span around(int64_t middle, int64_t length) {
    return {larger(0, middle - 1), smaller(length, middle + 2)};
  }
  int64_t count() const { return last - first; }
};

// --- forward: rows of windows first, then windows

template <class T>
struct PoolScratch {
  using S = Scalar<T>;
  S *largest, *sums;        // [columns] vectors: over the rows of a window
  S *largest_row, *average_row;  // [out_columns] vectors
  S* counts;  // of several pixels to a vector, as are the borders of the first two

  static int64_t size(const PoolSizes& s) { return 2 * (s.width + s.out_width + 4) * lanes<T>; }
  static PoolScratch of(S* memory, const PoolSizes& s) {
    Parts<S> parts{memory};
    PoolScratch scratch{};
    const int64_t columns = s.columns() * lanes<T>, out_columns = s.out_columns() * lanes<T>;
    const int64_t border = s.pack > 1 ? lanes<T> : 0;
    const auto take = [&](S beyond) {
      S* row = parts.take(columns + 2 * border);
      if (border > 0) fill(row, columns + 2 * border, beyond);
      return row + border;
    };
    scratch.largest = take(lowest<S>());
    scratch.sums = take(S(0));
    scratch.largest_row = parts.take(out_columns);
    scratch.average_row = parts.take(out_columns);
    if (s.pack > 1) {
      scratch.counts = parts.take(columns);
      count_columns(s.width, s.channels, scratch.counts);
    }
    return scratch;
  }
};

template <class T>
void pool_row(const PoolScratch<T>& scratch, const PoolSizes& sizes, const T* x, int64_t y,
              int64_t n) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  const Span rows = Span::around(y * sizes.stride, sizes.height);
  for (int64_t i = 0; i < sizes.columns(); ++i) {
    const T* from = x + rows.first * sizes.width * sizes.channels + i * sizes.step();
    Vector<S> largest = load_some(from, n), sum = largest;
    for (int64_t row = 1; row < rows.count(); ++row) {
      const Vector<S> value = load_some(from + row * sizes.width * sizes.channels, n);
      largest = maximum(largest, value);
      sum += value;
    }
    put(scratch.largest + i * L, largest);
    put(scratch.sums + i * L, sum);
  }
  if (sizes.pack > 1) {
    pool_columns(scratch.largest, scratch.sums, scratch.counts, rows.count(), sizes.channels,
                 sizes.columns(), scratch.largest_row, scratch.average_row);
    return;
  }
  for (int64_t i = 0; i < sizes.out_width; ++i) {
    const Span columns = Span::around(i * sizes.stride, sizes.width);
    Vector<S> largest = get(scratch.largest + columns.first * L);
    Vector<S> sum = get(scratch.sums + columns.first * L);
    for (int64_t column = columns.first + 1; column < columns.last; ++column) {
      largest = maximum(largest, get(scratch.largest + column * L));
      sum += get(scratch.sums + column * L);
    }
    put(scratch.largest_row + i * L, largest);
    put(scratch.average_row + i * L, sum / S(rows.count() * columns.count()));
  }
}

// A row of results to memory, and their moments to those of the rows before.
template <class T>
void finish_row(const Scalar<T>* row, const PoolSizes& sizes, int64_t y, int64_t n, T* to,
                Moments<Scalar<T>>& moments) {
  using S = Scalar<T>;
  moments = merged<S>(moments, moments_of(row, sizes.out_columns()));
  for (int64_t i = 0; i < sizes.out_columns(); ++i)
    store_some(to + y * sizes.out_width * sizes.channels + i * sizes.step(),
               get(row + i * lanes<T>), n);
}

template <class T>
void forward(const PoolsForward& args, int threads) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  const PoolSizes sizes = PoolSizes::of<S>(args);
  const int64_t each = 2 * sizes.padded, size = PoolScratch<T>::size(sizes);
  threads = threads_for(sizes.images * sizes.pixels(), threads);
  const AlignedWorkspace<S> means(sizes.images * each), squares(sizes.images * each);
  const AlignedWorkspace<S> memory(threads * size);
#pragma omp parallel num_threads(threads)
  {
    const auto scratch = PoolScratch<T>::of(memory.at(this_thread() * size), sizes);
#pragma omp for schedule(static)
    for (int64_t item = 0; item < sizes.images * sizes.vectors; ++item) {
      const int64_t image = item / sizes.vectors, v = item % sizes.vectors;
      const int64_t n = lanes_of<S>(v, sizes.step());
      const T* x = static_cast<const T*>(args.x) + image * sizes.pixels() + v * L;
      T* largest = static_cast<T*>(args.largest) + image * sizes.out_pixels() + v * L;
      T* average = static_cast<T*>(args.average) + image * sizes.out_pixels() + v * L;
      Moments<S> of_largest{}, of_average{};
      for (int64_t y = 0; y < sizes.out_height; ++y) {
        pool_row(scratch, sizes, x, y, n);
        finish_row(scratch.largest_row, sizes, y, n, largest, of_largest);
        finish_row(scratch.average_row, sizes, y, n, average, of_average);
      }
      const int64_t at = image * each + v * L;
      put(means.at(at), of_largest.mean);
      put(squares.at(at), of_largest.square);
      put(means.at(at + sizes.padded), of_average.mean);
      put(squares.at(at + sizes.padded), of_average.square);
    }
  }
  merge_images(means.at(0), squares.at(0), sizes.images, 2, sizes.padded, sizes.channels,
               sizes.out_height * sizes.out_columns(), static_cast<S*>(args.mean),
               static_cast<S*>(args.var), sizes.pack);
}

// --- backward: an image of gradients on the way to where they belong

// dx += gradient, where the maximum of a window is.
template <class T>
void scatter_largest(const PoolSizes& sizes, const T* x, const T* d_largest, int64_t n,
                     const Image<Scalar<T>>& dx) {
  using S = Scalar<T>;
  using V = Vector<S>;
  for (int64_t y = 0; y < sizes.out_height; ++y) {
    const Span rows = Span::around(y * sizes.stride, sizes.height);
    for (int64_t i = 0; i < sizes.out_width; ++i) {
      const Span columns = Span::around(i * sizes.stride, sizes.width);
      V largest = {}, place = {};  // place: number of the pixel in its window
      bool first = true;
      for (int64_t row = rows.first; row < rows.last; ++row)
        for (int64_t column = columns.first; column < columns.last; ++column) {
          const V value = load_some(x + (row * sizes.width + column) * sizes.channels, n);
          const V number =
              everywhere<V>(S((row - rows.first) * WINDOW + column - columns.first));
          const auto better = replaces(value, largest);
          largest = first ? value : (better ? value : largest);
          place = first ? number : (better ? number : place);
          first = false;
        }
      const V g = load_some(d_largest + (y * sizes.out_width + i) * sizes.channels, n);
      for (int64_t row = rows.first; row < rows.last; ++row)
        for (int64_t column = columns.first; column < columns.last; ++column) {
          const V number =
              everywhere<V>(S((row - rows.first) * WINDOW + column - columns.first));
          S* to = dx.at(0, row, column);
          put(to, get(to) + (place == number ? g : V{}));
        }
    }
  }
}

template <class T>
void scatter_average(const PoolSizes& sizes, const T* d_average, int64_t n,
                     const Image<Scalar<T>>& dx) {
  using S = Scalar<T>;
  for (int64_t y = 0; y < sizes.out_height; ++y) {
    const Span rows = Span::around(y * sizes.stride, sizes.height);
    for (int64_t i = 0; i < sizes.out_width; ++i) {
      const Span columns = Span::around(i * sizes.stride, sizes.width);
      const Vector<S> g = load_some(d_average + (y * sizes.out_width + i) * sizes.channels, n) /
                          S(rows.count() * columns.count());
      for (int64_t row = rows.first; row < rows.last; ++row)
        for (int64_t column = columns.first; column < columns.last; ++column) {
          S* to = dx.at(0, row, column);
          put(to, get(to) + g);
        }
    }
  }
}

template <class T>
void backward_packed(const PoolsBackward& args, int threads) {
  using S = Scalar<T>;
  const int64_t size = PackedPoolGradients<T>::size(args.height, args.width, args.channels);
  const int64_t pixels = args.height * args.width * args.channels;
  const auto image = [pixels](const void* values, int64_t n) {
    return values == nullptr ? nullptr : static_cast<const T*>(values) + n * pixels;
  };
  const AlignedWorkspace<S> memory(threads * size);
#pragma omp parallel num_threads(threads)
  {
    const PackedPoolGradients<T> gradients(memory.at(this_thread() * size), args.height,
                                           args.width, args.channels);
#pragma omp for schedule(static)
    for (int64_t n = 0; n < args.images; ++n)
      gradients(image(args.x, n), image(args.d_largest, n), image(args.d_average, n),
                image(args.into, n), static_cast<T*>(args.dx) + n * pixels);
  }
}

template <class T>
void backward(const PoolsBackward& args, int threads) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  const PoolSizes sizes = PoolSizes::of<S>(args);
  const int64_t size = Image<S>::size(1, sizes.height, sizes.width, 0);
  threads = threads_for(sizes.images * sizes.pixels(), threads);
  if (sizes.pack > 1) return backward_packed<T>(args, threads);
  const AlignedWorkspace<S> memory(threads * size);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < sizes.images * sizes.vectors; ++item) {
    const int64_t image = item / sizes.vectors, v = item % sizes.vectors;
    const int64_t n = lanes_of<S>(v, sizes.channels);
    const int64_t in = image * sizes.pixels() + v * L, out = image * sizes.out_pixels() + v * L;
    const auto total = Image<S>::of(memory.at(this_thread() * size), sizes.height, sizes.width, 0);
    clear(total.values, size);
    if (args.d_largest != nullptr)
      scatter_largest(sizes, static_cast<const T*>(args.x) + in,
                      static_cast<const T*>(args.d_largest) + out, n, total);
    if (args.d_average != nullptr)
      scatter_average(sizes, static_cast<const T*>(args.d_average) + out, n, total);
    T* dx = static_cast<T*>(args.dx) + in;
    for (int64_t i = 0; i < sizes.height * sizes.width; ++i) {
      Vector<S> value = get(total.values + i * L);
      if (args.into != nullptr)
        value += load_some(static_cast<const T*>(args.into) + in + i * sizes.channels, n);
      store_some(dx + i * sizes.channels, value, n);
    }
  }
}

}  // namespace

void pools_forward(const PoolsForward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { forward<decltype(value)>(args, threads); });
}

void pools_backward(const PoolsBackward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { backward<decltype(value)>(args, threads); });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
