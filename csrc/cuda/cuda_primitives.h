// The primitives on GPUs: each call enqueues kernels on a stream and waits for nothing.
#pragma once

#include "../primitives.h"

namespace ssfnas {
namespace cuda {

// Addresses travel to a kernel by value, among its arguments.
constexpr int MAX_INPUTS = 64;

// How many partial sums the calls need room for, in the arithmetic of sums: of `count` weights, and
// of `rows` rows of channels, where `aligned` says that all tensors begin at multiples of 16 bytes.
int64_t mixed_sum_partials(int dtype, int64_t length, int64_t count);
int64_t norm_partials(int dtype, int64_t rows, int64_t outer, int64_t channels, int64_t inner,
                      bool aligned);

#define SSFNAS_FUNCTION(function, Arguments) \
  void function(const Arguments&, int device, void* stream);
SSFNAS_PRIMITIVES(SSFNAS_FUNCTION)
#undef SSFNAS_FUNCTION

}  // namespace cuda
}  // namespace ssfnas
