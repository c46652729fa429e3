// out = sum_k w_k x_k, and its gradients, on GPUs: each tensor is read or written once.
//
// The gradient of the weights goes in two stages, sums of blocks and their sum in order, so that
// the same call gives the same bits.

#include "launch.cuh"

namespace ssfnas {
namespace cuda {
namespace {

// Where the next of a thread's loads begins, in values.
template <int VEC>
__device__ inline int64_t place(int step) {
  return ((static_cast<int64_t>(blockIdx.x) * STEPS + step) * THREADS + threadIdx.x) * VEC;
}

// Values from `at` on, of which only those before `length` exist; the others are zero.
template <int VEC, class T>
__device__ inline Values<T, VEC> load_before(const T* from, int64_t at, int64_t length) {
  if (at + VEC <= length) return load<VEC>(from + at);
  Values<T, VEC> result{};
#pragma unroll
  for (int i = 0; i < VEC; ++i)
    if (at + i < length) result.v[i] = widened(from[at + i]);
  return result;
}

template <int VEC, class T>
__device__ inline void store_before(T* to, int64_t at, int64_t length,
                                    const Values<T, VEC>& values) {
  if (at + VEC <= length) {
    store<VEC>(to + at, values);
    return;
  }
#pragma unroll
  for (int i = 0; i < VEC; ++i)
    if (at + i < length) narrow(values.v[i], to[at + i]);
}

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(const __grid_constant__ Inputs xs, const Scalar<T>* weights, T* out,
                   int64_t length, int count) {
  Values<T, VEC> total[STEPS] = {};
#pragma unroll 2
  for (int k = 0; k < count; ++k) {
    const T* x = static_cast<const T*>(xs.at[k]);
    const Scalar<T> weight = weights[k];
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      const Values<T, VEC> value = load_before<VEC>(x, place<VEC>(s), length);
#pragma unroll
      for (int i = 0; i < VEC; ++i) total[s].v[i] += weight * value.v[i];
    }
  }
#pragma unroll
  for (int s = 0; s < STEPS; ++s) store_before<VEC>(out, place<VEC>(s), length, total[s]);
}

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS)
    backward_kernel(const T* grad, const __grid_constant__ Inputs xs, const Scalar<T>* weights,
                    const __grid_constant__ Outputs dxs, Scalar<T>* partials, int64_t length,
                    int count) {
  __shared__ Scalar<T> sums[MAX_INPUTS][WARPS];
  Values<T, VEC> g[STEPS];
#pragma unroll
  for (int s = 0; s < STEPS; ++s) g[s] = load_before<VEC>(grad, place<VEC>(s), length);
  for (int k = 0; k < count; ++k) {
    if (partials != nullptr) {
      const T* x = static_cast<const T*>(xs.at[k]);
      Scalar<T> sum = 0;
#pragma unroll
      for (int s = 0; s < STEPS; ++s) {
        const Values<T, VEC> value = load_before<VEC>(x, place<VEC>(s), length);
#pragma unroll
        for (int i = 0; i < VEC; ++i) sum += g[s].v[i] * value.v[i];
      }
      sum = sum_of_lanes(sum);
      if (threadIdx.x % WARP == 0) sums[k][threadIdx.x / WARP] = sum;
    }
    T* dx = static_cast<T*>(dxs.at[k]);
    if (dx != nullptr) {
      const Scalar<T> weight = weights[k];
#pragma unroll
      for (int s = 0; s < STEPS; ++s) {
        Values<T, VEC> value;
#pragma unroll
        for (int i = 0; i < VEC; ++i) value.v[i] = weight * g[s].v[i];
        store_before<VEC>(dx, place<VEC>(s), length, value);
      }
    }
  }
  if (partials == nullptr) return;
  __syncthreads();
  for (int k = threadIdx.x; k < count; k += THREADS) {
    Scalar<T> sum = 0;
    for (int warp = 0; warp < WARPS; ++warp) sum += sums[k][warp];
    partials[static_cast<int64_t>(k) * gridDim.x + blockIdx.x] = sum;
  }
}

// totals[k] = sum of partials[k, 0 .. length), one block each.
template <class S>
__global__ void __launch_bounds__(THREADS) total_kernel(const S* partials, S* totals,
                                                        int64_t length) {
  __shared__ double sums[WARPS];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < length; i += THREADS)
    sum += partials[blockIdx.x * length + i];
  sum = sum_of_lanes(sum);
  if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < WARPS; ++warp) sum += sums[warp];
  totals[blockIdx.x] = static_cast<S>(sum);
}

int64_t blocks_of(int64_t length, int vec) { return ceil_div(length, vec * STEPS * THREADS); }

}  // namespace

int64_t mixed_sum_partials(int, int64_t length, int64_t count) {
  return blocks_of(length, 1) * count;
}

void mixed_sum_forward(const MixedSumForward& args, int device, void* stream) {
  const OnDevice on(device);
  const Inputs xs = inputs(args.xs, args.count);
  const bool wide = aligned(args.xs, args.count) && aligned(args.out);
  for_dtype(args.dtype, wide, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    forward_kernel<T, VEC>
        <<<blocks(blocks_of(args.length, VEC)), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
            xs, static_cast<const Scalar<T>*>(args.weights), static_cast<T*>(args.out),
            args.length, static_cast<int>(args.count));
  });
  check(cudaGetLastError(), "mixed_sum_forward");
}

void mixed_sum_backward(const MixedSumBackward& args, int device, void* stream) {
  const OnDevice on(device);
  const bool reads = args.dweights != nullptr;
  const Inputs xs = reads ? inputs(args.xs, args.count) : Inputs{};
  const Outputs dxs = outputs(args.dxs, args.count);
  const bool wide = aligned(args.grad) && (!reads || aligned(args.xs, args.count)) &&
                    aligned(args.dxs, args.count);
  for_dtype(args.dtype, wide, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    using S = Scalar<T>;
    constexpr int VEC = decltype(vec)::value;
    const int64_t parts = blocks_of(args.length, VEC);
    S* partials = reads ? static_cast<S*>(args.partials) : nullptr;
    const cudaStream_t on_stream = static_cast<cudaStream_t>(stream);
    backward_kernel<T, VEC><<<blocks(parts), THREADS, 0, on_stream>>>(
        static_cast<const T*>(args.grad), xs, static_cast<const S*>(args.weights), dxs, partials,
        args.length, static_cast<int>(args.count));
    if (reads)
      total_kernel<S><<<blocks(args.count), THREADS, 0, on_stream>>>(
          partials, static_cast<S*>(args.dweights), parts);
  });
  check(cudaGetLastError(), "mixed_sum_backward");
}

}  // namespace cuda
}  // namespace ssfnas
