// What the kernels share: dtypes, 16-byte loads and stores, sums over a block, checked launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "cuda_primitives.h"

// What has another meaning where kernels are run without a GPU, in tests.
#ifndef SSFNAS_LAUNCH
#define SSFNAS_LAUNCH(kernel, grid, threads, bytes, stream, ...) \
  kernel<<<grid, threads, bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define SSFNAS_SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace ssfnas {
namespace cuda {

constexpr int THREADS = 256;  // of a block
constexpr int WARP = 32;
constexpr int WARPS = THREADS / WARP;
constexpr int STEPS = 4;  // loads of a thread from one tensor

template <class T>
struct Kept {  // what sums over T are kept in
  using Scalar = float;
};
template <>
struct Kept<double> {
  using Scalar = double;
};
template <class T>
using Scalar = typename Kept<T>::Scalar;

template <class T>
constexpr int FULL = 16 / sizeof(T);  // values of a 16-byte load

__device__ inline float widened(float v) { return v; }
__device__ inline double widened(double v) { return v; }
__device__ inline float widened(__half v) { return __half2float(v); }
__device__ inline float widened(__nv_bfloat16 v) { return __bfloat162float(v); }
__device__ inline void narrow(float v, float& to) { to = v; }
__device__ inline void narrow(double v, double& to) { to = v; }
__device__ inline void narrow(float v, __half& to) { to = __float2half_rn(v); }
__device__ inline void narrow(float v, __nv_bfloat16& to) { to = __float2bfloat16_rn(v); }

// VEC values in the arithmetic of sums.
template <class T, int VEC>
struct Values {
  Scalar<T> v[VEC];
};

// The same as they are stored.
template <class T, int VEC>
struct Raw {
  T v[VEC];
};

// VEC is 1, or FULL where the address is a multiple of 16 bytes.
template <int VEC, class T>
__device__ inline Raw<T, VEC> load_raw(const T* from) {
  Raw<T, VEC> raw;
  if constexpr (VEC == 1) {
    raw.v[0] = *from;
  } else {
    static_assert(sizeof(raw) == 16);
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    memcpy(&raw, &bits, 16);
  }
  return raw;
}

template <class T, int VEC>
__device__ inline Values<T, VEC> widened(const Raw<T, VEC>& raw) {
  Values<T, VEC> result;
#pragma unroll
  for (int i = 0; i < VEC; ++i) result.v[i] = widened(raw.v[i]);
  return result;
}

template <int VEC, class T>
__device__ inline Values<T, VEC> load(const T* from) {
  return widened(load_raw<VEC>(from));
}

template <int VEC, class T>
__device__ inline void store(T* to, const Values<T, VEC>& values) {
  T raw[VEC];
#pragma unroll
  for (int i = 0; i < VEC; ++i) narrow(values.v[i], raw[i]);
  if constexpr (VEC == 1) {
    *to = raw[0];
  } else {
    uint4 bits;
    memcpy(&bits, raw, 16);
    *reinterpret_cast<uint4*>(to) = bits;
  }
}

// N coefficients, aligned like the vectors that they belong to.
template <int N, class S>
__device__ inline void load_coefficients(S (&to)[N], const S* from) {
  if constexpr (N * sizeof(S) % 16 == 0) {
#pragma unroll
    for (int i = 0; i < N * static_cast<int>(sizeof(S)) / 16; ++i) {
      const uint4 bits = reinterpret_cast<const uint4*>(from)[i];
      memcpy(to + i * (16 / sizeof(S)), &bits, 16);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = from[i];
  }
}

// The sum over lanes whose numbers agree modulo `columns`, a power of two, in each of them.
template <class S>
__device__ inline S sum_of_lanes(S value, int columns = 1) {
  for (int offset = WARP / 2; offset >= columns; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

struct Inputs {
  const void* at[MAX_INPUTS];
};
struct Outputs {
  void* at[MAX_INPUTS];
};

inline Inputs inputs(const void* const* pointers, int64_t count) {
  if (count > MAX_INPUTS) throw std::invalid_argument("too many tensors for one kernel");
  Inputs result{};
  for (int64_t k = 0; k < count; ++k) result.at[k] = pointers[k];
  return result;
}

inline Outputs outputs(void* const* pointers, int64_t count) {
  if (count > MAX_INPUTS) throw std::invalid_argument("too many tensors for one kernel");
  Outputs result{};
  for (int64_t k = 0; k < count; ++k) result.at[k] = pointers[k];
  return result;
}

inline bool aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

inline bool aligned(const void* const* pointers, int64_t count) {
  for (int64_t k = 0; k < count; ++k)
    if (!aligned(pointers[k])) return false;
  return true;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// A number of blocks, as launches want it.
inline unsigned blocks(int64_t count) {
  if (count > 2147483647) throw std::invalid_argument("a tensor is too large for one launch");
  return static_cast<unsigned>(count);
}

// Makes a device the current one for the length of a call.
class OnDevice {
 public:
  explicit OnDevice(int device) : device_(device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
  }
  ~OnDevice() {
    if (before_ != device_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int device_, before_ = 0;
};

template <class T>
struct Tag {
  using type = T;
};
template <int N>
using Number = std::integral_constant<int, N>;

// Calls `function(Tag<T>, Number<VEC>)` for a dtype, with 16-byte loads or single ones.
template <class Function>
void for_dtype(Dtype dtype, bool wide, Function function) {
  const auto call = [&](auto tag) {
    if (wide)
      function(tag, Number<FULL<typename decltype(tag)::type>>{});
    else
      function(tag, Number<1>{});
  };
  switch (dtype) {
    case Dtype::float32:
      return call(Tag<float>{});
    case Dtype::float64:
      return call(Tag<double>{});
    case Dtype::bfloat16:
      return call(Tag<__nv_bfloat16>{});
    case Dtype::float16:
      return call(Tag<__half>{});
  }
}

inline int full_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32:
      return 4;
    case Dtype::float64:
      return 2;
    default:
      return 8;
  }
}

}  // namespace cuda
}  // namespace ssfnas
