// Runs kernels on a CPU: a block's threads are fibers, which take turns at barriers.
//
// For g++, which reads CUDA sources as C++ with this file before them. A barrier that not all of a
// block's, or of a warp's, threads come to ends the program. Every other block runs its threads
// last to first, so that results that hang on the order show.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include <cuda_runtime.h>

using std::min;

namespace emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

enum class Wait { nothing, warp, block, work };

// A fiber outlives its block: it takes the same thread of the next one.
struct Fiber {
  Wait wait = Wait::work;
  bool started = false;
  jmp_buf place;
  ucontext_t context;
  std::vector<char> stack;
};

constexpr unsigned LANES = 32;

inline Index thread, block, threads, grid;
inline std::vector<unsigned char> memory;
inline jmp_buf scheduler;
inline std::vector<std::unique_ptr<Fiber>> fibers;
inline const std::function<void()>* body;
// What lanes hand to others: two rows that take turns, so that one barrier is enough.
inline std::vector<std::vector<unsigned char>> handed[2];
inline std::vector<unsigned> exchanges;

inline unsigned char* shared() { return memory.data(); }

// Gives the turn back until what is waited for has come.
__attribute__((noinline)) inline void wait_for(Wait what) {
  Fiber& mine = *fibers[thread.x];
  mine.wait = what;
  if (_setjmp(mine.place) == 0) _longjmp(scheduler, 1);
}

inline void synchronize() { wait_for(Wait::block); }
inline void synchronize_warp() { wait_for(Wait::warp); }

inline void run_fiber() {
  for (;;) {
    (*body)();
    wait_for(Wait::work);
  }
}

__attribute__((noinline)) inline void resume(unsigned i) {
  Fiber& fiber = *fibers[i];
  thread.x = i;
  fiber.wait = Wait::nothing;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  setcontext(&fiber.context);
}

inline void make_fibers(unsigned count) {
  while (fibers.size() < count) {
    fibers.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *fibers.back();
    fiber.stack.resize(64 << 10);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    makecontext(&fiber.context, run_fiber, 0);
  }
}

// Whether threads [first, last) all wait for that; then they may go on.
inline bool released(unsigned first, unsigned last, Wait what, std::vector<bool>& ready) {
  for (unsigned i = first; i < last; ++i)
    if (fibers[i]->wait != what) return false;
  for (unsigned i = first; i < last; ++i) ready[i] = true;
  return true;
}

inline void run_block(unsigned count) {
  make_fibers(count);
  exchanges.assign(count, 0);
  std::vector<bool> ready(count, true);
  const bool reversed = (block.x + block.y + block.z) % 2 == 1;
  for (bool over = false; !over;) {
    for (unsigned k = 0; k < count; ++k) {
      const unsigned i = reversed ? count - 1 - k : k;
      if (!ready[i]) continue;
      ready[i] = false;
      resume(i);
    }
    bool moves = released(0, count, Wait::block, ready);
    for (unsigned i = 0; i < count; i += LANES)
      moves |= released(i, i + LANES < count ? i + LANES : count, Wait::warp, ready);
    if (moves) continue;
    over = true;
    for (unsigned i = 0; i < count; ++i) over = over && fibers[i]->wait == Wait::work;
    // Threads that have ended are not waited for, as on GPUs.
    if (!over) {
      bool only = true;
      for (unsigned i = 0; i < count; ++i)
        only = only && (fibers[i]->wait == Wait::work || fibers[i]->wait == Wait::block);
      if (!only) {
        std::fputs("a barrier that not all of its threads come to\n", stderr);
        std::abort();
      }
      for (unsigned i = 0; i < count; ++i) ready[i] = fibers[i]->wait == Wait::block;
    }
  }
}

// The value of the lane whose number differs in the bits of `mask`.
template <class S>
S exchanged(S value, int mask) {
  const unsigned i = thread.x, row = exchanges[i]++ % 2;
  auto& values = handed[row];
  if (values.size() < threads.x) values.resize(threads.x, std::vector<unsigned char>(16));
  std::memcpy(values[i].data(), &value, sizeof(S));
  synchronize_warp();
  std::memcpy(&value, handed[row][i ^ mask].data(), sizeof(S));
  return value;
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
#define __syncthreads emulation::synchronize
#define __syncwarp emulation::synchronize_warp
#undef __launch_bounds__
#define __launch_bounds__(...)
#define SSFNAS_LAUNCH(kernel, grid, threads, bytes, stream, ...) \
  emulation::launch([&] { kernel(__VA_ARGS__); }, grid, threads, bytes)
// Aligned to 64 bytes, as the first of a block is.
#define SSFNAS_SHARED_MEMORY(name)                                                    \
  unsigned char* name = reinterpret_cast<unsigned char*>(                             \
      (reinterpret_cast<std::uintptr_t>(emulation::shared()) + 63) / 64 * 64)

template <class S>
S __shfl_xor_sync(unsigned, S value, int mask) {
  return emulation::exchanged(value, mask);
}

// What asks for a device.
#define cudaGetDevice(place) (*(place) = 0, cudaSuccess)
#define cudaSetDevice(device) ((void)(device), cudaSuccess)
#define cudaGetLastError() cudaSuccess
#define cudaGetErrorString(error) ((void)(error), "")
#define cudaFuncSetAttribute(...) cudaSuccess
