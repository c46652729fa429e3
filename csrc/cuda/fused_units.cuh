// What launches of fused units share: units whose depthwise results stay on the chip.
#pragma once

#include "mixing.cuh"
#include "separable_units.cuh"

namespace ssfnas {
namespace cuda {

// Bytes of shared memory that leave room for two blocks on an SM of Hopper GPUs, and that one
// block may have on all GPUs since Ampere.
constexpr int64_t FUSED_SHARED = 96 * 1024;
// A filter's gradient is held by a block's threads, in squares of CHUNK by CHUNK.
constexpr int64_t FUSED_CHANNELS = 64;

// Lets a kernel have so many bytes of shared memory.
template <class Kernel>
void allow_shared(Kernel* kernel, int bytes) {
  if (bytes <= SHARED) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
        "cudaFuncSetAttribute");
}

inline Limits fused_limits(int64_t channels, int vec) {
  const int columns = whole_columns(channels, vec);
  return {columns, columns, FUSED_SHARED};
}

}  // namespace cuda
}  // namespace ssfnas
