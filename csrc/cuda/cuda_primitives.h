// The primitives on GPUs: each call enqueues kernels on a stream and waits for nothing.
#pragma once

#include "../primitives.h"

namespace ssfnas {
namespace cuda {

// Addresses travel to a kernel by value, among its arguments.
constexpr int MAX_INPUTS = 64;

// How many partial sums the calls need room for, in the arithmetic of sums: of `count` weights, and
// of `rows` rows of channels. The latter hangs on where the `count` tensors of the call begin, as
// the call's blocks do: null, not read, begins anywhere.
int64_t mixed_sum_partials(int dtype, int64_t length, int64_t count);
int64_t norm_partials(Dtype dtype, const Extent& extent, int64_t rows, const void* const* tensors,
                      int64_t count);

#define SSFNAS_FUNCTION(function, Arguments) \
  void function(const Arguments&, int device, void* stream);
SSFNAS_PRIMITIVES(SSFNAS_FUNCTION)
#undef SSFNAS_FUNCTION

}  // namespace cuda
}  // namespace ssfnas
