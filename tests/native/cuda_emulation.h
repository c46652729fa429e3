// Runs kernels on a processor: a block's threads are fibres, which take turns at __syncthreads().
//
// For g++, which reads CUDA sources as C++ with this file before them.
#pragma once

#include <ucontext.h>

#include <cstdlib>
#include <functional>
#include <vector>

#include <cuda_runtime.h>

namespace emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

inline Index thread, block, threads, grid;
inline std::vector<unsigned char> memory;
inline ucontext_t scheduler;
inline std::vector<ucontext_t> fibres;
inline std::vector<bool> done;
inline const std::function<void()>* body;

inline unsigned char* shared() { return memory.data(); }

// Gives the turn back; the next turn comes when every other thread has got here, or ended.
inline void synchronise() { swapcontext(&fibres[thread.x], &scheduler); }

inline void run_thread() {
  (*body)();
  done[thread.x] = true;
}

inline void run_block(unsigned count) {
  constexpr std::size_t STACK = 64 << 10;
  static std::vector<std::vector<char>> stacks;
  while (stacks.size() < count) stacks.emplace_back(STACK);
  fibres.assign(count, {});
  done.assign(count, false);
  for (unsigned i = 0; i < count; ++i) {
    getcontext(&fibres[i]);
    fibres[i].uc_stack.ss_sp = stacks[i].data();
    fibres[i].uc_stack.ss_size = STACK;
    fibres[i].uc_link = &scheduler;
    makecontext(&fibres[i], run_thread, 0);
  }
  for (bool busy = true; busy;) {
    busy = false;
    for (unsigned i = 0; i < count; ++i) {
      if (done[i]) continue;
      thread.x = i;
      swapcontext(&scheduler, &fibres[i]);
      busy = busy || !done[i];
    }
  }
}

inline void launch(const std::function<void()>& kernel, dim3 size, unsigned count,
                   std::size_t bytes) {
  body = &kernel;
  grid = {size.x, size.y, size.z};
  threads = {count, 1, 1};
  for (block.z = 0; block.z < size.z; ++block.z)
    for (block.y = 0; block.y < size.y; ++block.y)
      for (block.x = 0; block.x < size.x; ++block.x) {
        // NaN in every dtype: what nobody wrote is seen.
        memory.assign(bytes + 64, 0xff);
        run_block(count);
      }
}

}  // namespace emulation

#define threadIdx emulation::thread
#define blockIdx emulation::block
#define blockDim emulation::threads
#define gridDim emulation::grid
#define __syncthreads emulation::synchronise
#undef __launch_bounds__
#define __launch_bounds__(...)
#define SSFNAS_LAUNCH(kernel, grid, threads, bytes, stream, ...) \
  emulation::launch([&] { kernel(__VA_ARGS__); }, grid, threads, bytes)
// Aligned to 64 bytes, as the first of a block is.
#define SSFNAS_SHARED_MEMORY(name)                                                    \
  unsigned char* name = reinterpret_cast<unsigned char*>(                             \
      (reinterpret_cast<std::uintptr_t>(emulation::shared()) + 63) / 64 * 64)

template <class S>
S __shfl_xor_sync(unsigned, S value, int) {
  std::abort();  // not used by the kernels that are run so
  return value;
}

// What asks for a device.
#define cudaGetDevice(place) (*(place) = 0, cudaSuccess)
#define cudaSetDevice(device) ((void)(device), cudaSuccess)
#define cudaGetLastError() cudaSuccess
#define cudaGetErrorString(error) ((void)(error), "")
