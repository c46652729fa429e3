// What the primitives on CPUs share besides vectors: memory, threads, choice of the dtype.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include "../primitives.h"
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

// Uninitialized memory for the length of a call that begins at a line of cache.
template <class S>
class AlignedWorkspace {
 public:
  explicit AlignedWorkspace(int64_t size) : storage_((size + 1) * sizeof(S) + LINE) {
    const uintptr_t start = reinterpret_cast<uintptr_t>(storage_.at(0));
    values_ = reinterpret_cast<S*>((start + LINE - 1) / LINE * LINE);
  }
  S* at(int64_t i) const { return values_ + i; }

 private:
  static constexpr int64_t LINE = 64;
  Workspace<char> storage_;
  S* values_;
};

template <class S>
SSFNAS_INLINE void clear(S* values, int64_t size) {
  __builtin_memset(values, 0, size * sizeof(S));
}

// Hands out parts of a piece of scratch memory, each a whole number of vectors.
template <class S>
struct Parts {
  S* next;
  S* take(int64_t size) {
    S* part = next;
    next += size;
    return part;
  }
};

// Threads that sleep take about 100 microseconds to wake (a virtual machine), those that still spin a
// few. Less work than that stays on one.
constexpr int64_t WORTH_WAKING = 65536;  // elements of a unit or a pool, of 1 to 2 ns each
constexpr int64_t STREAMED = 8;          // terms of a sum that are read in that time

SSFNAS_INLINE int threads_for(int64_t elements, int threads) {
  return elements < WORTH_WAKING || threads < 1 ? 1 : threads;
}

SSFNAS_INLINE int this_thread() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// Calls `function` with a value of the type that a dtype stands for.
template <class Function>
void for_dtype(Dtype dtype, Function function) {
  switch (dtype) {
    case Dtype::float32:
      return function(float{});
    case Dtype::float64:
      return function(double{});
    case Dtype::bfloat16:
      return function(bfloat16{});
    case Dtype::float16:
      return function(float16{});
  }
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
