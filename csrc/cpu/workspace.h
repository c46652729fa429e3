// What the primitives on CPUs share besides vectors: memory, threads, choice of the dtype.
#pragma once

#include "vectors.h"

namespace ssfnas {
namespace SSFNAS_ISA {

// Uninitialized memory for the length of a call.
template <class S>
class Workspace {
 public:
  explicit Workspace(int64_t size) : values_(size == 0 ? nullptr : new S[size]) {}
  ~Workspace() { delete[] values_; }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  S& operator[](int64_t i) const { return values_[i]; }
  S* at(int64_t i) const { return values_ + i; }

 private:
  S* values_;
};

// Waking threads costs more than a small sum.
SSFNAS_INLINE int threads_for(int64_t elements, int threads) {
  return elements < 32768 || threads < 1 ? 1 : threads;
}

#define SSFNAS_FOR_DTYPE(dtype, ...) \
  switch (dtype) {                   \
    case Dtype::float32: {           \
      using T = float;               \
      __VA_ARGS__;                   \
      break;                         \
    }                                \
    case Dtype::float64: {           \
      using T = double;              \
      __VA_ARGS__;                   \
      break;                         \
    }                                \
    case Dtype::bfloat16: {          \
      using T = bfloat16;            \
      __VA_ARGS__;                   \
      break;                         \
    }                                \
    case Dtype::float16: {           \
      using T = float16;             \
      __VA_ARGS__;                   \
      break;                         \
    }                                \
  }

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
