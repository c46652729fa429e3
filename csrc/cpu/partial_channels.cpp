// Partial channels on CPUs: states split, and nodes merged, in one pass over memory each.
//
// A block of pixels at a time stands in the first level of cache as channels before the shuffle; it
// is shuffled on the way to memory, or from there. Sums over pixels are kept for blocks, which
// depend on shapes alone, and added in order, so that results do not depend on the number of
// threads.

#include "depthwise.h"
#include "instruction_sets.h"
#include "maxima.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

constexpr int64_t BLOCK = 2048;  // values of a block, about: two of them in half an L1

// Channels of a state: the head, which operations see, and behind it the rest.
struct Shares {
  int64_t all, share, head, rest;

  Shares(int64_t channels, int64_t of_share)
      : all(channels), share(of_share), head(channels / of_share), rest(channels - head) {}
  int64_t pixels_of_block() const { return larger(1, BLOCK / all); }
};

// Where the rests of tensors are: in pixels of `width` channels, of which they are the last.
template <class T>
struct Rests {
  const T* const* values;
  const int64_t* widths;  // or null, for dense ones
  int64_t count;

  const T* at(int64_t k, int64_t pixel, int64_t rest) const {
    const int64_t width = widths == nullptr ? rest : widths[k];
    return values[k] + pixel * width + width - rest;
  }
  int64_t width(int64_t k, int64_t rest) const { return widths == nullptr ? rest : widths[k]; }
};

// to[pixel][channel] (+)= sum_k b_k rest_k; `to` has pixels of `pitch` values.
template <class T, bool ADD>
void sum_rests(const Rests<T>& rests, const Scalar<T>* b, const Shares& c, int64_t first,
               int64_t count, Scalar<T>* to, int64_t pitch) {
  using S = Scalar<T>;
  constexpr int64_t L = lanes<T>, U = 4;
  for (int64_t v = 0; v < c.rest; v += L) {
    const int64_t n = smaller(L, c.rest - v);
    int64_t x = 0;
    // A few pixels at a time, whose sums stay in registers.
    for (; x + U <= count; x += U) {
      Vector<S> total[U] = {};
      S* place = to + x * pitch + v;
      if (ADD)
        for (int u = 0; u < U; ++u) total[u] = load_some<S>(place + u * pitch, n);
      for (int64_t k = 0; k < rests.count; ++k) {
        const T* from = rests.at(k, first + x, c.rest) + v;
        const int64_t step = rests.width(k, c.rest);
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) total[u] += b[k] * load_some(from + u * step, n);
      }
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) store_some<S>(place + u * pitch, total[u], n);
    }
    for (; x < count; ++x) {
      S* place = to + x * pitch + v;
      Vector<S> total = {};
      if (ADD) total = load_some<S>(place, n);
      for (int64_t k = 0; k < rests.count; ++k)
        total += b[k] * load_some(rests.at(k, first + x, c.rest) + v, n);
      store_some<S>(place, total, n);
    }
  }
}

// Rows of `width` values to rows `to_pitch` apart, in another dtype if need be.
template <class T, class U>
void copy_rows(const T* from, int64_t pitch, U* to, int64_t to_pitch, int64_t width,
               int64_t count) {
  constexpr int64_t L = lanes<T>;
  for (int64_t v = 0; v < width; v += L) {
    const int64_t n = smaller(L, width - v);
    for (int64_t x = 0; x < count; ++x)
      store_some<U>(to + x * to_pitch + v, load_some(from + x * pitch + v, n), n);
  }
}

template <class S>
void clear_rows(S* to, int64_t pitch, int64_t width, int64_t count) {
  for (int64_t x = 0; x < count; ++x) clear(to + x * pitch, width);
}

// [pixels][rows][columns] to [pixels][columns][rows]. With K rows of P values it is the shuffle,
// with P rows of K what undoes it.
template <int ROWS, class S>
void exchange(const S* from, int64_t rows, int64_t columns, S* to, int64_t pixels) {
  if (ROWS != 0) rows = ROWS;
  for (int64_t x = 0; x < pixels; ++x, from += rows * columns, to += rows * columns)
    for (int64_t j = 0; j < columns; ++j)
#pragma GCC unroll 8
      for (int64_t i = 0; i < rows; ++i) to[j * rows + i] = from[i * columns + j];
}

// Unrolled for the usual numbers of rows.
template <class S>
void exchange_any(const S* from, int64_t rows, int64_t columns, S* to, int64_t pixels) {
  const auto run = rows == 2   ? exchange<2, S>
                   : rows == 4 ? exchange<4, S>
                   : rows == 8 ? exchange<8, S>
                               : exchange<0, S>;
  run(from, rows, columns, to, pixels);
}

template <class T>
void merge(const MergeForward& args, int threads) {
  using S = Scalar<T>;
  const Shares c(args.channels, args.share);
  const Rests<T> passing{reinterpret_cast<const T* const*>(args.passing), args.widths, args.count};
  const S* b = static_cast<const S*>(args.b);
  const T* mixed = static_cast<const T*>(args.mixed);
  T* node = static_cast<T*>(args.node);
  T* head = static_cast<T*>(args.head);
  const int64_t each = c.pixels_of_block(), blocks = ceil_div(args.pixels, each);
  threads = threads_for(args.pixels * c.all * (args.count + 2) / STREAMED, threads);
  const int64_t size = 2 * each * c.all;
  const AlignedWorkspace<S> memory(threads * size);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    S* before = memory.at(this_thread() * size);
    S* after = before + each * c.all;
    const int64_t first = block * each, count = smaller(each, args.pixels - first);
    if (mixed == nullptr)
      clear_rows(before, c.all, c.head, count);
    else
      copy_rows(mixed + first * c.head, c.head, before, c.all, c.head, count);
    sum_rests<T, false>(passing, b, c, first, count, before + c.head, c.all);
    exchange_any(before, c.share, c.head, after, count);
    copy_rows(after, c.all, node + first * c.all, c.all, c.all, count);
    copy_rows(after, c.all, head + first * c.head, c.head, c.head, count);
  }
}

// sum over pixels of rest * rest_k
template <class T>
Scalar<T> product(const Scalar<T>* gradient, const Rests<T>& rests, int64_t k, const Shares& c,
                  int64_t first, int64_t count) {
  using S = Scalar<T>;
  constexpr int64_t L = lanes<T>;
  const T* from = rests.at(k, first, c.rest);
  const int64_t step = rests.width(k, c.rest);
  Vector<S> total[2] = {};
  for (int64_t v = 0; v < c.rest; v += L) {
    const int64_t n = smaller(L, c.rest - v);
    for (int64_t x = 0; x < count; ++x)
      total[x % 2] +=
          load_some(gradient + x * c.all + v, n) * load_some(from + x * step + v, n);
  }
  return sum_of_lanes(total[0] + total[1]);
}

template <class T>
void merge_gradients(const MergeBackward& args, int threads) {
  using S = Scalar<T>;
  const Shares c(args.channels, args.share);
  const Rests<T> passing{reinterpret_cast<const T* const*>(args.passing), args.widths, args.count};
  const Rests<T> later{reinterpret_cast<const T* const*>(args.d_rests), nullptr, args.later};
  const S* b = static_cast<const S*>(args.b);
  const T* outside = static_cast<const T*>(args.outside);
  const T* d_head = static_cast<const T*>(args.d_head);
  T* d_mixed = static_cast<T*>(args.d_mixed);
  T* d_rest = static_cast<T*>(args.d_rest);
  S* d_factors = static_cast<S*>(args.d_factors);
  const int64_t each = c.pixels_of_block(), blocks = ceil_div(args.pixels, each);
  threads = threads_for(args.pixels * c.all * (args.count + args.later + 2) / STREAMED, threads);
  const int64_t size = 2 * each * c.all;
  const AlignedWorkspace<S> memory(threads * size);
  const Workspace<S> partials(d_factors == nullptr ? 0 : blocks * args.count);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) {
    S* of_node = memory.at(this_thread() * size);
    S* before = of_node + each * c.all;
    const int64_t first = block * each, count = smaller(each, args.pixels - first);
    if (outside == nullptr)
      clear(of_node, count * c.all);
    else
      copy_rows(outside + first * c.all, c.all, of_node, c.all, c.all, count);
    if (d_head != nullptr) {
      const S one[] = {S(1)};
      const T* const heads[] = {d_head};
      const Shares of_head{c.head * 2, 2};  // its rest is as wide as the head
      sum_rests<T, true>({heads, nullptr, 1}, one, of_head, first, count, of_node, c.all);
    }
    sum_rests<T, true>(later, b, c, first, count, of_node + c.head, c.all);
    exchange_any(of_node, c.head, c.share, before, count);
    copy_rows(before, c.all, d_mixed + first * c.head, c.head, c.head, count);
    copy_rows(before + c.head, c.all, d_rest + first * c.rest, c.rest, c.rest, count);
    if (d_factors == nullptr) continue;
    for (int64_t k = 0; k < args.count; ++k)
      partials[block * args.count + k] = product<T>(before + c.head, passing, k, c, first, count);
  }
  if (d_factors == nullptr) return;
  for (int64_t k = 0; k < args.count; ++k) {
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += partials[block * args.count + k];
    d_factors[k] = static_cast<S>(total);
  }
}

// --- states: at stride 2 a pixel of the pooled rest and the 2x2 pixels of the state belong together

struct Halved {
  int64_t height, width, rows, columns;

  Halved(int64_t h, int64_t w) : height(h), width(w), rows(ceil_div(h, 2)), columns(ceil_div(w, 2)) {}
  // Pixels of the state in the window of column x of a row.
  int64_t across(int64_t x) const { return smaller(2, width - 2 * x); }
  int64_t down(int64_t y) const { return smaller(2, height - 2 * y); }
};

template <class T>
void split(const SplitForward& args, int threads) {
  constexpr int64_t L = lanes<T>;
  const Shares c(args.channels, args.share);
  const Halved sides(args.height, args.width);
  const T* x = static_cast<const T*>(args.x);
  T* head = static_cast<T*>(args.head);
  T* rest = static_cast<T*>(args.rest);
  threads = threads_for(args.images * args.height * args.width * c.all / STREAMED, threads);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < args.images * sides.rows; ++item) {
    const int64_t image = item / sides.rows, y = item % sides.rows, down = sides.down(y);
    const int64_t first = (image * args.height + 2 * y) * args.width;
    copy_rows(x + first * c.all, c.all, head + first * c.head, c.head, c.head, down * args.width);
    if (rest == nullptr) continue;
    for (int64_t v = 0; v < c.rest; v += L) {
      const int64_t n = smaller(L, c.rest - v);
      for (int64_t i = 0; i < sides.columns; ++i) {
        const T* from = x + (first + 2 * i) * c.all + c.head + v;
        Vector<T> largest = load_some(from, n);
        for (int64_t dy = 0; dy < down; ++dy)
          for (int64_t dx = 0; dx < sides.across(i); ++dx) {
            const Vector<T> value = load_some(from + (dy * args.width + dx) * c.all, n);
            largest = maximum(largest, value);
          }
        store_some<T>(rest + (item * sides.columns + i) * c.rest + v, largest, n);
      }
    }
  }
}

// The gradient of the pooled rest of a row of windows, to the first of the largest pixels of each.
template <class T>
void scatter_maxima(const T* x, const Scalar<T>* gradient, const Shares& c, const Halved& sides,
                    int64_t y, T* dx) {
  using S = Scalar<T>;
  using V = Vector<S>;
  constexpr int64_t L = lanes<T>;
  const int64_t down = sides.down(y);
  for (int64_t v = 0; v < c.rest; v += L) {
    const int64_t n = smaller(L, c.rest - v);
    for (int64_t i = 0; i < sides.columns; ++i) {
      const int64_t at = 2 * i * c.all + c.head + v, across = sides.across(i);
      V largest = {}, place = {};
      for (int64_t number = 0; number < down * 2; ++number) {
        if (number % 2 >= across) continue;
        const V value =
            load_some(x + at + (number / 2 * sides.width + number % 2) * c.all, n);
        const auto better = replaces(value, largest);
        const V own = everywhere<V>(S(number));
        largest = number == 0 ? value : (better ? value : largest);
        place = number == 0 ? own : (better ? own : place);
      }
      const V g = load_some(gradient + i * c.rest + v, n);
      for (int64_t number = 0; number < down * 2; ++number) {
        if (number % 2 >= across) continue;
        const V own = everywhere<V>(S(number));
        store_some<T>(dx + at + (number / 2 * sides.width + number % 2) * c.all,
                      place == own ? g : V{}, n);
      }
    }
  }
}

template <class T>
void split_gradients(const SplitBackward& args, int threads) {
  using S = Scalar<T>;
  const Shares c(args.channels, args.share);
  const bool pooled = args.stride == 2;
  const Halved sides(args.height, args.width);
  const Rests<T> later{reinterpret_cast<const T* const*>(args.d_rests), nullptr, args.count};
  const S* b = static_cast<const S*>(args.b);
  const T* x = static_cast<const T*>(args.x);
  const T* d_head = static_cast<const T*>(args.d_head);
  T* dx = static_cast<T*>(args.dx);
  threads =
      threads_for(args.images * args.height * args.width * c.all * (args.count + 1) / STREAMED,
                  threads);
  // Of a row of windows, or of two rows of pixels.
  const int64_t size = (pooled ? sides.columns : 2 * args.width) * c.rest;
  const AlignedWorkspace<S> memory(threads * size);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < args.images * sides.rows; ++item) {
    S* gradient = memory.at(this_thread() * size);
    const int64_t image = item / sides.rows, y = item % sides.rows, down = sides.down(y);
    const int64_t first = (image * args.height + 2 * y) * args.width, count = down * args.width;
    T* to = dx + first * c.all;
    if (d_head == nullptr)
      clear_rows(to, c.all, c.head, count);
    else
      copy_rows(d_head + first * c.head, c.head, to, c.all, c.head, count);
    if (pooled) {
      sum_rests<T, false>(later, b, c, item * sides.columns, sides.columns, gradient, c.rest);
      scatter_maxima(x + first * c.all, gradient, c, sides, y, to);
    } else {
      sum_rests<T, false>(later, b, c, first, count, gradient, c.rest);
      copy_rows(gradient, c.rest, to + c.head, c.all, c.rest, count);
    }
  }
}

}  // namespace

void split_forward(const SplitForward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { split<decltype(value)>(args, threads); });
}

void split_backward(const SplitBackward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { split_gradients<decltype(value)>(args, threads); });
}

void merge_forward(const MergeForward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { merge<decltype(value)>(args, threads); });
}

void merge_backward(const MergeBackward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { merge_gradients<decltype(value)>(args, threads); });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
