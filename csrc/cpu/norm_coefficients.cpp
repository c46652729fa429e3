// Coefficients of normalized sums, row by row: what would be ten small operations each in PyTorch.

#include "instruction_sets.h"
#include "workspace.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

template <class S>
S root(S value) {
  if constexpr (sizeof(S) == 4)
    return __builtin_sqrtf(value);
  else
    return __builtin_sqrt(value);
}

template <class S>
void enter(const EnterStatistics& args) {
  const int64_t count = args.count * args.channels;
  const S* mean = static_cast<const S*>(args.mean);
  const S* var = static_cast<const S*>(args.var);
  const S* gamma = static_cast<const S*>(args.gamma);
  const S* beta = static_cast<const S*>(args.beta);
  S* table = static_cast<S*>(args.table) + args.start * args.channels;
  const int64_t kind = args.rows * args.channels;
  for (int64_t i = 0; i < count; ++i) {
    const S rstd = 1 / root(static_cast<S>(var[i] + args.eps));
    const S scale = gamma == nullptr ? rstd : gamma[i] * rstd;
    table[i] = mean[i];
    table[kind + i] = var[i];
    table[2 * kind + i] = rstd;
    table[3 * kind + i] = scale;
    table[4 * kind + i] = (beta == nullptr ? 0 : beta[i]) - mean[i] * scale;
  }
}

template <class S>
void node(const NodeCoefficients& args) {
  const int64_t channels = args.channels, kind = args.rows * channels;
  const S* weights = static_cast<const S*>(args.weights);
  S* out = static_cast<S*>(args.out);
  S* b = static_cast<S*>(args.b);
  if (!args.separate) clear(b, channels);
  for (int64_t k = 0; k < args.count; ++k) {
    const S* row = static_cast<const S*>(args.table) + args.places[k] * channels;
    const S weight = weights[args.weight_places[k]];
    S* to = out + k * channels;
    S* shift = args.separate ? b + k * channels : b;
    for (int64_t c = 0; c < channels; ++c) {
      to[c] = row[c];
      to[args.count * channels + c] = row[2 * kind + c];
      to[2 * args.count * channels + c] = weight * row[3 * kind + c];
      const S offset = weight * row[4 * kind + c];
      shift[c] = args.separate ? offset : shift[c] + offset;
    }
  }
}

template <class S>
void gradient(const GradientCoefficients& args) {
  const int64_t channels = args.channels;
  const S* s0 = static_cast<const S*>(args.s0);
  S* table = static_cast<S*>(args.table);
  const auto row = [channels](const void* values, int64_t k) {
    return static_cast<const S*>(values) + k * channels;
  };
  const S each = static_cast<S>(1 / args.values);
  for (int64_t k = 0; k < args.count; ++k) {
    const S *a = row(args.a, k), *mean = row(args.mean, k), *rstd = row(args.rstd, k);
    const S *sum0 = args.s0_each ? row(s0, k) : s0, *sum1 = row(args.s1, k);
    S* p = table + args.places[k] * channels;
    S* q = table + args.places[args.count + k] * channels;
    S* r = table + args.places[2 * args.count + k] * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const S slope = a[c] * rstd[c] * (sum1[c] * each);
      p[c] = a[c];
      q[c] -= slope;
      r[c] += slope * mean[c] - a[c] * (sum0[c] * each);
    }
  }
}

}  // namespace

void enter_statistics(const EnterStatistics& args, int) {
  args.dtype == Dtype::float64 ? enter<double>(args) : enter<float>(args);
}

void node_coefficients(const NodeCoefficients& args, int) {
  args.dtype == Dtype::float64 ? node<double>(args) : node<float>(args);
}

void gradient_coefficients(const GradientCoefficients& args, int) {
  args.dtype == Dtype::float64 ? gradient<double>(args) : gradient<float>(args);
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
