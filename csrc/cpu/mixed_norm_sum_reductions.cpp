// Statistics of channels, and the sums that gradients of normalized sums need, on CPUs.
//
// Each block's sums are merged in order. A variance is computed in a block around the block's own
// mean, from the first level of cache, and blocks are merged by the formula in moments.h.

#include "instruction_sets.h"
#include "mixed_norm_sum.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

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

// sums[j] over a part's columns j of U vectors from `first` on; mean[j] belongs to column j.
template <class T, int U, class Term>
SSFNAS_INLINE void sum_columns(Term term, const RowsPart<T>& part, const Scalar<T>* mean,
                               int64_t first, Scalar<T>* sums) {
  constexpr int L = lanes<T>;
  Vector<T> total[U] = {}, m[U] = {};
  if (mean != nullptr)
    for (int u = 0; u < U; ++u) m[u] = load(mean + first + u * L);
  int64_t i = part.offset + first;
  for (; i + U * L <= part.end; i += part.width) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) total[u] += Term::at(term, i + u * L, m[u]);
  }
  for (int u = 0; u < U && i + u * L < part.end; ++u)
    total[u] += Term::at(term, i + u * L, m[u], smaller(L, part.end - i - u * L));
  for (int u = 0; u < U; ++u) store(sums + first + u * L, total[u]);
}

// The sums of a term over a part, into a block's row of them. `mean` is a row too, or null for
// terms without one.
template <class T, class Term>
void sum_part(Term term, const RowsPart<T>& part, const Scalar<T>* mean, Scalar<T>* sums) {
  constexpr int L = lanes<T>;
  int64_t first = 0;
  for (; first + UNROLL * L <= part.width; first += UNROLL * L)
    sum_columns<T, UNROLL>(term, part, mean, first, sums);
  for (; first + L <= part.width; first += L) sum_columns<T, 1>(term, part, mean, first, sums);
  if (first == part.width) return;
  const int64_t n = part.width - first;
  Vector<T> total = {};
  const Vector<T> m = mean == nullptr ? Vector<T>{} : load(mean + first, n);
  for (int64_t i = part.offset + first; i < part.end; i += part.width)
    total += Term::at(term, i, m, smaller(n, part.end - i));
  store(sums + first, total, n);
}

template <class T, class Term>
void sum_part(Term term, const SpansPart<T>& part, const Scalar<T>* mean, Scalar<T>* sums) {
  constexpr int L = lanes<T>;
  Vector<T> total[UNROLL] = {};
  const Vector<T> m = everywhere<Vector<T>>(mean == nullptr ? Scalar<T>(0) : mean[part.channel]);
  for (int64_t run = 0; run < part.count; ++run) {
    int64_t i = part.start(run);
    const int64_t end = i + part.size;
    for (; i + UNROLL * L <= end; i += UNROLL * L) {
#pragma GCC unroll 4
      for (int u = 0; u < UNROLL; ++u) total[u] += Term::at(term, i + u * L, m);
    }
    for (int u = 0; i < end; i += L, ++u)
      total[u] += i + L <= end ? Term::at(term, i, m) : Term::at(term, i, m, end - i);
  }
  sums[part.channel] = sum_of_lanes((total[0] + total[1]) + (total[2] + total[3]));
}

// Sums of a part into means.
template <class T>
void divide(const RowsPart<T>& part, Scalar<T>* sums) {
  using S = Scalar<T>;
  const int64_t length = part.end - part.offset, full = length / part.width;
  const int64_t tail = length % part.width;
  const S each = full == 0 ? S(0) : S(1) / full, more = S(1) / (full + 1);
  for (int64_t j = 0; j < tail; ++j) sums[j] *= more;
  for (int64_t j = tail; j < part.width; ++j) sums[j] *= each;
}

template <class T>
void divide(const SpansPart<T>& part, Scalar<T>* sums) {
  sums[part.channel] /= part.count * part.size;
}

// How many values of column j a block has.
template <class T>
int64_t values_of(const Layout<T>& layout, int64_t block, int64_t j) {
  if (layout.by_rows) {
    const RowsPart<T> part = layout.rows.part(block);
    const int64_t length = part.end - part.offset;
    return length / part.width + (j < length % part.width);
  }
  const SpansPart<T> part = layout.spans.part(block, 0);
  return part.count * part.size;
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

// --- S0_c = sum g,  S1_kc = rstd_kc sum g (z_k - mean_kc), with factors of f_kn g

template <class T>
void reduce(const NormSumReduce& args, int threads) {
  using S = Scalar<T>;
  const T* grad = static_cast<const T*>(args.grad);
  const T* const* zs = reinterpret_cast<const T* const*>(args.zs);
  const S* factors = static_cast<const S*>(args.factors);
  const int64_t images = factors == nullptr ? 1 : args.images;
  const Layout<T> layout(args.extent, images);
  const int64_t count = args.count, channels = layout.extent.channels;
  const int64_t width = layout.width, blocks = layout.blocks, each = blocks / images;
  // Sums of the gradient come first, then those with each input.
  const Workspace<S> partials((count + 1) * blocks * width);
  const Repeated<T> mean(args.mean, count, layout);
  const auto sum = [grad, zs, count, width, blocks, mean = mean.row(0),
                    sums = partials.at(0)](const auto part) {
    sum_part(Value<T>{grad}, part, nullptr, sums + part.block * width);
    for (int64_t k = 0; k < count; ++k)
      sum_part(Product<T>{grad, zs[k]}, part, mean + k * width,
               sums + ((k + 1) * blocks + part.block) * width);
  };
  layout.for_parts(count, threads, sum);
  const S* rstd = static_cast<const S*>(args.rstd);
  S* s0 = static_cast<S*>(args.s0);
  S* s1 = static_cast<S*>(args.s1);
  const int64_t firsts = factors == nullptr ? 1 : count;  // rows of S0
  const Workspace<double> totals((count + firsts) * width);
#pragma omp parallel for num_threads(threads_for((count + firsts) * blocks * width, threads))
  for (int64_t row = 0; row < firsts + count; ++row) {
    const bool first = row < firsts;
    const int64_t k = first ? row : row - firsts;
    double* total = totals.at(row * width);
    const S* sums = partials.at((first ? 0 : k + 1) * blocks * width);
    const S* factor = factors == nullptr ? nullptr : factors + k * images;
    sum_blocks(sums, blocks, width, total, [=](int64_t block, int64_t, double value) {
      return factor == nullptr ? value : value * factor[block / each];
    });
    fold(total, width, channels);
    for (int64_t c = 0; c < channels; ++c) {
      if (first)
        s0[k * channels + c] = static_cast<S>(total[c]);
      else
        s1[k * channels + c] = static_cast<S>(total[c] * rstd[k * channels + c]);
    }
  }
}

// --- mean_kc and var_kc

template <class T>
void statistics(const NormStatistics& args, int threads) {
  using S = Scalar<T>;
  const T* const* zs = reinterpret_cast<const T* const*>(args.zs);
  const Layout<T> layout(args.extent);
  const int64_t count = args.count, channels = layout.extent.channels;
  const int64_t width = layout.width, blocks = layout.blocks;
  const Workspace<S> means(count * blocks * width), squares(count * blocks * width);
  const auto find = [zs, count, width, blocks, means = means.at(0),
                     squares = squares.at(0)](const auto part) {
    for (int64_t k = 0; k < count; ++k) {
      if (zs[k] == nullptr) continue;
      const int64_t row = (k * blocks + part.block) * width;
      sum_part(Value<T>{zs[k]}, part, nullptr, means + row);
      divide(part, means + row);
      sum_part(Square<T>{zs[k]}, part, means + row, squares + row);
    }
  };
  layout.for_parts(count, threads, find);
  const double all = static_cast<double>(layout.extent.outer) * layout.extent.inner;
  const auto values = [&](int64_t block, int64_t j) {
    return static_cast<double>(values_of(layout, block, j));
  };
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
      return value * values(block, j);
    });
    fold(center, width, channels);
    for (int64_t j = 0; j < width; ++j)
      center[j] = j < channels ? center[j] / all : center[j % channels];
    double* total = center + width;
    sum_blocks(squares.at(k * blocks * width), blocks, width, total,
               [&](int64_t block, int64_t j, double value) {
                 const double shift = block_means[block * width + j] - center[j];
                 return value + shift * shift * values(block, j);
               });
    fold(total, width, channels);
    for (int64_t c = 0; c < channels; ++c) {
      mean_row[c] = static_cast<S>(center[c]);
      var_row[c] = static_cast<S>(total[c] / all);
    }
  }
}

}  // namespace

void norm_statistics(const NormStatistics& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { statistics<decltype(value)>(args, threads); });
}

void norm_sum_reduce(const NormSumReduce& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { reduce<decltype(value)>(args, threads); });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
