// Statistics of channels, and weighted sums with a factor per channel, on CPUs.
//
// A tensor is cut into blocks by its shape alone, and each block's sums are merged in order, so
// that results do not depend on the number of threads. A variance is computed in a block around
// the block's own mean, from the first level of cache, and blocks are merged by Chan's formula.

#include "instruction_sets.h"
#include "vectors.h"
#include "workspace.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

constexpr int UNROLL = 4;        // vectors of independent sums
constexpr int64_t BLOCK = 4096;  // elements of a tensor in a block, about: of half an L1

// Where channels lie next to each other: memory as rows of `width` values. A row holds several
// pixels where channels are few, so that it fills vectors.
struct Rows {
  int64_t channels, width, elements, block, blocks;

  template <class T>
  static Rows of(const Extent& extent) {
    const int64_t tile = UNROLL * lanes<T>, channels = extent.channels;
    int64_t width = channels;
    double least = 2;
    // The fewest idle lanes; of those, the shortest row.
    for (int64_t pixels = 1; channels < tile && pixels * channels <= 4 * tile; ++pixels) {
      const int64_t full = ceil_div(pixels * channels, tile) * tile;
      const double idle = double(full - pixels * channels) / full;
      if (idle < least) least = idle, width = pixels * channels;
    }
    const int64_t elements = extent.outer * channels;
    const int64_t block = larger(channels < tile ? 1 : 16, BLOCK / width) * width;
    return {channels, width, elements, block, ceil_div(elements, block)};
  }
};

// Where a channel of a sample is contiguous: parts of samples' channels.
struct Spans {
  int64_t samples, channels, inner, samples_in_block, span, spans, blocks;

  static Spans of(const Extent& extent) {
    const int64_t samples = larger(1, BLOCK / extent.inner);
    const int64_t span = smaller(BLOCK, extent.inner), spans = ceil_div(extent.inner, span);
    return {extent.outer, extent.channels, extent.inner, samples, span, spans,
            ceil_div(extent.outer, samples) * spans};
  }
  // One channel of a block: `count` spans of `length`, `stride` apart, the first at `offset`.
  struct Part {
    int64_t offset, count, stride, length;
  };
  Part part(int64_t block, int64_t channel) const {
    const int64_t sample = block / spans * samples_in_block, start = block % spans * span;
    return {(sample * channels + channel) * inner + start,
            smaller(samples_in_block, samples - sample), channels * inner,
            smaller(span, inner - start)};
  }
};

bool channels_inner(const Extent& extent) { return extent.inner == 1 && extent.channels > 1; }

// A single channel is one long span.
Extent merged(const Extent& extent) {
  if (extent.channels > 1) return extent;
  return {1, 1, extent.outer * extent.inner};
}

// --- factors of a run of values: one each, or one for all

template <class T>
struct Each {
  const Scalar<T>* values;
  SSFNAS_INLINE Vector<T> at(const Each& e, int64_t i) { return load(e.values + i); }
  SSFNAS_INLINE Vector<T> at(const Each& e, int64_t i, int64_t n) { return load(e.values + i, n); }
};

template <class T>
struct All {
  Scalar<T> value;
  SSFNAS_INLINE Vector<T> at(const All& a, int64_t) { return everywhere<Vector<T>>(a.value); }
  SSFNAS_INLINE Vector<T> at(const All& a, int64_t, int64_t) {
    return everywhere<Vector<T>>(a.value);
  }
};

// [count, channels] as [count, width]: repeated for the pixels of a row.
template <class S>
class Repeated {
 public:
  Repeated(const void* values, int64_t count, const Rows& rows)
      : storage_(rows.width == rows.channels ? 0 : count * rows.width),
        values_(static_cast<const S*>(values)),
        width_(rows.width) {
    if (rows.width == rows.channels) return;
    for (int64_t k = 0; k < count; ++k)
      for (int64_t j = 0; j < rows.width; ++j)
        storage_[k * rows.width + j] = values_[k * rows.channels + j % rows.channels];
    values_ = storage_.at(0);
  }
  const S* row(int64_t k) const { return values_ + k * width_; }

 private:
  Workspace<S> storage_;
  const S* values_;
  int64_t width_;
};

// --- out = sum_k a_kc z_k + b_c

template <class T, class A, class B>
SSFNAS_INLINE void sum_run(const T* const* zs, int64_t count, int64_t offset, A a, B b, T* out,
                           int64_t length) {
  constexpr int L = lanes<T>;
  using F = decltype(a(0));
  int64_t i = 0;
  for (; i + UNROLL * L <= length; i += UNROLL * L) {
    Vector<T> total[UNROLL];
#pragma GCC unroll 4
    for (int u = 0; u < UNROLL; ++u) total[u] = B::at(b, i + u * L);
    for (int64_t k = 0; k < count; ++k) {
      const F factor = a(k);
      const T* z = zs[k] + offset + i;
#pragma GCC unroll 4
      for (int u = 0; u < UNROLL; ++u) total[u] += F::at(factor, i + u * L) * load(z + u * L);
    }
#pragma GCC unroll 4
    for (int u = 0; u < UNROLL; ++u) store(out + offset + i + u * L, total[u]);
  }
  for (; i < length; i += L) {
    const int64_t n = smaller(L, length - i);
    Vector<T> total = B::at(b, i, n);
    for (int64_t k = 0; k < count; ++k)
      total += F::at(a(k), i, n) * load(zs[k] + offset + i, n);
    store(out + offset + i, total, n);
  }
}

template <class T>
void forward(const NormSumForward& args, const Extent& extent, int threads) {
  using S = Scalar<T>;
  const T* const* zs = reinterpret_cast<const T* const*>(args.zs);
  T* out = static_cast<T*>(args.out);
  const int64_t count = args.count, channels = extent.channels;
  if (channels_inner(extent)) {
    const Rows rows = Rows::of<T>(extent);
    const Repeated<S> a(args.a, count, rows), b(args.b, 1, rows);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < rows.blocks; ++block) {
      const int64_t end = smaller(rows.elements, (block + 1) * rows.block);
      for (int64_t i = block * rows.block; i < end; i += rows.width)
        sum_run(zs, count, i, [&](int64_t k) { return Each<T>{a.row(k)}; }, Each<T>{b.row(0)},
                out, smaller(rows.width, end - i));
    }
    return;
  }
  const Spans spans = Spans::of(extent);
  const S* a = static_cast<const S*>(args.a);
  const S* b = static_cast<const S*>(args.b);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < spans.blocks * channels; ++item) {
    const int64_t c = item % channels;
    const Spans::Part part = spans.part(item / channels, c);
    for (int64_t s = 0; s < part.count; ++s)
      sum_run(zs, count, part.offset + s * part.stride,
              [&](int64_t k) { return All<T>{a[k * channels + c]}; }, All<T>{b[c]}, out,
              part.length);
  }
}

// --- dz_k = p_kc g + q_kc z_k + r_kc

template <class T, class F>
SSFNAS_INLINE void apply_run(const T* g, const T* z, F p, F q, F r, T* dz, int64_t length) {
  constexpr int L = lanes<T>;
  int64_t i = 0;
  for (; i + L <= length; i += L)
    store(dz + i, F::at(p, i) * load(g + i) + (F::at(q, i) * load(z + i) + F::at(r, i)));
  if (i < length) {
    const int64_t n = length - i;
    store(dz + i, F::at(p, i, n) * load(g + i, n) + (F::at(q, i, n) * load(z + i, n) +
                                                     F::at(r, i, n)), n);
  }
}

template <class T>
void apply(const NormSumApply& args, const Extent& extent, int threads) {
  using S = Scalar<T>;
  const T* grad = static_cast<const T*>(args.grad);
  const T* const* zs = reinterpret_cast<const T* const*>(args.zs);
  T* const* dzs = reinterpret_cast<T* const*>(args.dzs);
  const int64_t count = args.count, channels = extent.channels;
  if (channels_inner(extent)) {
    const Rows rows = Rows::of<T>(extent);
    const Repeated<S> p(args.p, count, rows), q(args.q, count, rows), r(args.r, count, rows);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < rows.blocks; ++block) {
      const int64_t end = smaller(rows.elements, (block + 1) * rows.block);
      for (int64_t k = 0; k < count; ++k) {
        if (dzs[k] == nullptr) continue;
        for (int64_t i = block * rows.block; i < end; i += rows.width)
          apply_run(grad + i, zs[k] + i, Each<T>{p.row(k)}, Each<T>{q.row(k)}, Each<T>{r.row(k)},
                    dzs[k] + i, smaller(rows.width, end - i));
      }
    }
    return;
  }
  const Spans spans = Spans::of(extent);
  const S* p = static_cast<const S*>(args.p);
  const S* q = static_cast<const S*>(args.q);
  const S* r = static_cast<const S*>(args.r);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < spans.blocks * channels; ++item) {
    const int64_t c = item % channels;
    const Spans::Part part = spans.part(item / channels, c);
    for (int64_t k = 0; k < count; ++k) {
      if (dzs[k] == nullptr) continue;
      const int64_t row = k * channels + c;
      for (int64_t s = 0; s < part.count; ++s) {
        const int64_t i = part.offset + s * part.stride;
        apply_run(grad + i, zs[k] + i, All<T>{p[row]}, All<T>{q[row]}, All<T>{r[row]},
                  dzs[k] + i, part.length);
      }
    }
  }
}

// --- sums over a block: of a term that is zero in lanes that are loaded as zero

// Terms of sums, at an element i of a tensor; `n` is how many lanes there are.
template <class T>
struct Value {  // z
  const T* z;
  SSFNAS_INLINE Vector<T> at(const Value& t, int64_t i, Vector<T>) { return load(t.z + i); }
  SSFNAS_INLINE Vector<T> at(const Value& t, int64_t i, Vector<T>, int64_t n) {
    return load(t.z + i, n);
  }
};

template <class T>
struct Square {  // (z - mean)^2
  const T* z;
  SSFNAS_INLINE Vector<T> at(const Square& t, int64_t i, Vector<T> mean) {
    const Vector<T> deviation = load(t.z + i) - mean;
    return deviation * deviation;
  }
  SSFNAS_INLINE Vector<T> at(const Square& t, int64_t i, Vector<T> mean, int64_t n) {
    const Vector<T> deviation = first_lanes(load(t.z + i, n) - mean, n);
    return deviation * deviation;
  }
};

template <class T>
struct Product {  // g (z - mean)
  const T* g;
  const T* z;
  SSFNAS_INLINE Vector<T> at(const Product& t, int64_t i, Vector<T> mean) {
    return load(t.g + i) * (load(t.z + i) - mean);
  }
  SSFNAS_INLINE Vector<T> at(const Product& t, int64_t i, Vector<T> mean, int64_t n) {
    return first_lanes(load(t.g + i, n) * (load(t.z + i, n) - mean), n);
  }
};

// sums[j] over rows j, j + width, ... of `length` values; mean[j] belongs to column j.
template <class T, int U, class Term>
SSFNAS_INLINE void sum_columns(Term term, const Scalar<T>* mean, Scalar<T>* sums, int64_t first,
                               int64_t width, int64_t length) {
  constexpr int L = lanes<T>;
  Vector<T> total[U] = {}, m[U] = {};
  if (mean != nullptr)
    for (int u = 0; u < U; ++u) m[u] = load(mean + first + u * L);
  int64_t i = first;
  for (; i + U * L <= length; i += width) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) total[u] += Term::at(term, i + u * L, m[u]);
  }
  for (int u = 0; u < U && i + u * L < length; ++u)
    total[u] += Term::at(term, i + u * L, m[u], smaller(L, length - i - u * L));
  for (int u = 0; u < U; ++u) store(sums + first + u * L, total[u]);
}

template <class T, class Term>
void sum_rows(Term term, const Scalar<T>* mean, Scalar<T>* sums, int64_t width, int64_t length) {
  constexpr int L = lanes<T>;
  int64_t first = 0;
  for (; first + UNROLL * L <= width; first += UNROLL * L)
    sum_columns<T, UNROLL>(term, mean, sums, first, width, length);
  for (; first + L <= width; first += L)
    sum_columns<T, 1>(term, mean, sums, first, width, length);
  if (first == width) return;
  const int64_t n = width - first;
  Vector<T> total = {};
  const Vector<T> m = mean == nullptr ? Vector<T>{} : load(mean + first, n);
  for (int64_t i = first; i < length; i += width)
    total += Term::at(term, i, m, smaller(n, length - i));
  store(sums + first, total, n);
}

template <class T, class Term>
Scalar<T> sum_part(Term term, Scalar<T> mean, const Spans::Part& part) {
  constexpr int L = lanes<T>;
  Vector<T> total[UNROLL] = {};
  const Vector<T> m = everywhere<Vector<T>>(mean);
  for (int64_t s = 0; s < part.count; ++s) {
    int64_t i = part.offset + s * part.stride;
    const int64_t end = i + part.length;
    for (; i + UNROLL * L <= end; i += UNROLL * L) {
#pragma GCC unroll 4
      for (int u = 0; u < UNROLL; ++u) total[u] += Term::at(term, i + u * L, m);
    }
    for (int u = 0; i < end; i += L, ++u)
      total[u] += i + L <= end ? Term::at(term, i, m) : Term::at(term, i, m, end - i);
  }
  return sum_of_lanes((total[0] + total[1]) + (total[2] + total[3]));
}

// totals[j] = sum over blocks of partials[block, j], each multiplied by what `weigh` says.
template <class S, class Weigh>
SSFNAS_INLINE void sum_blocks(const S* partials, int64_t blocks, int64_t width, double* totals,
                              Weigh weigh) {
  for (int64_t j = 0; j < width; ++j) totals[j] = 0;
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t j = 0; j < width; ++j)
      totals[j] += weigh(block, j, static_cast<double>(partials[block * width + j]));
}

// Adds the values of a channel up: totals[c] = sum of totals[c + i * channels].
SSFNAS_INLINE void fold(double* totals, int64_t width, int64_t channels) {
  for (int64_t j = channels; j < width; ++j) totals[j % channels] += totals[j];
}

// --- S0_c = sum g,  S1_kc = rstd_kc sum g (z_k - mean_kc)

template <class T>
void reduce(const NormSumReduce& args, const Extent& extent, int threads) {
  using S = Scalar<T>;
  const T* grad = static_cast<const T*>(args.grad);
  const T* const* zs = reinterpret_cast<const T* const*>(args.zs);
  const int64_t count = args.count, channels = extent.channels;
  const bool by_rows = channels_inner(extent);
  const Rows rows = by_rows ? Rows::of<T>(extent) : Rows{};
  const Spans spans = by_rows ? Spans{} : Spans::of(extent);
  const int64_t width = by_rows ? rows.width : channels;
  const int64_t blocks = by_rows ? rows.blocks : spans.blocks;
  // Sums of the gradient come first, then those with each input.
  const Workspace<S> partials((count + 1) * blocks * width);
  if (by_rows) {
    const Repeated<S> mean(args.mean, count, rows);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t start = block * rows.block;
      const int64_t length = smaller(rows.block, rows.elements - start);
      sum_rows<T>(Value<T>{grad + start}, nullptr, partials.at(block * width), width, length);
      for (int64_t k = 0; k < count; ++k)
        sum_rows<T>(Product<T>{grad + start, zs[k] + start}, mean.row(k),
                    partials.at(((k + 1) * blocks + block) * width), width, length);
    }
  } else {
    const S* mean = static_cast<const S*>(args.mean);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t item = 0; item < blocks * channels; ++item) {
      const int64_t c = item % channels;
      const Spans::Part part = spans.part(item / channels, c);
      partials[item] = sum_part<T>(Value<T>{grad}, S(0), part);
      for (int64_t k = 0; k < count; ++k)
        partials[(k + 1) * blocks * channels + item] =
            sum_part<T>(Product<T>{grad, zs[k]}, mean[k * channels + c], part);
    }
  }
  const S* rstd = static_cast<const S*>(args.rstd);
  S* s0 = static_cast<S*>(args.s0);
  S* s1 = static_cast<S*>(args.s1);
  const Workspace<double> totals((count + 1) * width);
#pragma omp parallel for num_threads(threads_for((count + 1) * blocks * width, threads))
  for (int64_t k = 0; k <= count; ++k) {
    double* total = totals.at(k * width);
    sum_blocks(partials.at(k * blocks * width), blocks, width, total,
               [](int64_t, int64_t, double value) { return value; });
    fold(total, width, channels);
    for (int64_t c = 0; c < channels; ++c) {
      if (k == 0)
        s0[c] = static_cast<S>(total[c]);
      else
        s1[(k - 1) * channels + c] = static_cast<S>(total[c] * rstd[(k - 1) * channels + c]);
    }
  }
}

// --- mean_kc and var_kc

template <class T>
void statistics(const NormStatistics& args, const Extent& extent, int threads) {
  using S = Scalar<T>;
  const T* const* zs = reinterpret_cast<const T* const*>(args.zs);
  const int64_t count = args.count, channels = extent.channels;
  const bool by_rows = channels_inner(extent);
  const Rows rows = by_rows ? Rows::of<T>(extent) : Rows{};
  const Spans spans = by_rows ? Spans{} : Spans::of(extent);
  const int64_t width = by_rows ? rows.width : channels;
  const int64_t blocks = by_rows ? rows.blocks : spans.blocks;
  const Workspace<S> means(count * blocks * width), squares(count * blocks * width);
  // How many values of column j a block has.
  const auto values = [&](int64_t block, int64_t j) {
    if (!by_rows) {
      const Spans::Part part = spans.part(block, 0);
      return part.count * part.length;
    }
    const int64_t length = smaller(rows.block, rows.elements - block * rows.block);
    return length / width + (j < length % width);
  };
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < blocks * (by_rows ? 1 : channels); ++item) {
    for (int64_t k = 0; k < count; ++k) {
      if (zs[k] == nullptr) continue;
      if (by_rows) {
        const int64_t start = item * rows.block;
        const int64_t length = smaller(rows.block, rows.elements - start);
        S* mean = means.at((k * blocks + item) * width);
        sum_rows<T>(Value<T>{zs[k] + start}, nullptr, mean, width, length);
        const int64_t full = length / width, tail = length % width;
        const S each = full == 0 ? S(0) : S(1) / full, more = S(1) / (full + 1);
        for (int64_t j = 0; j < tail; ++j) mean[j] *= more;
        for (int64_t j = tail; j < width; ++j) mean[j] *= each;
        sum_rows<T>(Square<T>{zs[k] + start}, mean, squares.at((k * blocks + item) * width),
                    width, length);
      } else {
        const int64_t at = k * blocks * channels + item;
        const Spans::Part part = spans.part(item / channels, item % channels);
        means[at] = sum_part<T>(Value<T>{zs[k]}, S(0), part) / (part.count * part.length);
        squares[at] = sum_part<T>(Square<T>{zs[k]}, means[at], part);
      }
    }
  }
  const double all = static_cast<double>(extent.outer) * extent.inner;
  S* mean = static_cast<S*>(args.mean);
  S* var = static_cast<S*>(args.var);
  const Workspace<double> totals(2 * count * width);
#pragma omp parallel for num_threads(threads_for(count * blocks * width, threads))
  for (int64_t k = 0; k < count; ++k) {
    S* mean_row = mean + k * channels;
    S* var_row = var + k * channels;
    if (zs[k] == nullptr) {
      for (int64_t c = 0; c < channels; ++c) mean_row[c] = 0, var_row[c] = 1;
      continue;
    }
    const S* block_means = means.at(k * blocks * width);
    double* center = totals.at(2 * k * width);
    sum_blocks(block_means, blocks, width, center, [&](int64_t block, int64_t j, double value) {
      return value * static_cast<double>(values(block, j));
    });
    fold(center, width, channels);
    for (int64_t j = 0; j < width; ++j) center[j] = j < channels ? center[j] / all : center[j % channels];
    double* total = center + width;
    sum_blocks(squares.at(k * blocks * width), blocks, width, total,
               [&](int64_t block, int64_t j, double value) {
                 const double shift = block_means[block * width + j] - center[j];
                 return value + shift * shift * static_cast<double>(values(block, j));
               });
    fold(total, width, channels);
    for (int64_t c = 0; c < channels; ++c) {
      mean_row[c] = static_cast<S>(center[c]);
      var_row[c] = static_cast<S>(total[c] / all);
    }
  }
}

int64_t elements(const Extent& extent) { return extent.outer * extent.channels * extent.inner; }

}  // namespace

void norm_statistics(const NormStatistics& args, int threads) {
  const Extent extent = merged(args.extent);
  threads = threads_for(elements(extent) * args.count, threads);
  SSFNAS_FOR_DTYPE(args.dtype, statistics<T>(args, extent, threads));
}

void norm_sum_forward(const NormSumForward& args, int threads) {
  const Extent extent = merged(args.extent);
  threads = threads_for(elements(extent) * args.count, threads);
  SSFNAS_FOR_DTYPE(args.dtype, forward<T>(args, extent, threads));
}

void norm_sum_reduce(const NormSumReduce& args, int threads) {
  const Extent extent = merged(args.extent);
  threads = threads_for(elements(extent) * args.count, threads);
  SSFNAS_FOR_DTYPE(args.dtype, reduce<T>(args, extent, threads));
}

void norm_sum_apply(const NormSumApply& args, int threads) {
  const Extent extent = merged(args.extent);
  threads = threads_for(elements(extent) * args.count, threads);
  SSFNAS_FOR_DTYPE(args.dtype, apply<T>(args, extent, threads));
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
