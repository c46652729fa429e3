// out_g = p_gc f_gn grad_g + q_gc z_g + r_gc of all groups on GPUs, stacked for matrix products.

#include "cuda_candidates.h"
#include "launch.cuh"

namespace ssfnas {
namespace cuda {
namespace {

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS)
    scaled_sums_kernel(const __grid_constant__ Inputs grads, const __grid_constant__ Inputs zs,
                       const Scalar<T>* p, const Scalar<T>* q, const Scalar<T>* r,
                       const Scalar<T>* factors, T* out, int64_t images, int64_t pixels,
                       int channels) {
  const int g = blockIdx.y, packs = channels / VEC;
  const int64_t place = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  const int64_t size = pixels * packs;  // of an image
  if (place >= images * size) return;
  const int64_t row = static_cast<int64_t>(g) * channels + place % packs * VEC;
  Scalar<T> factor[VEC];
  load_coefficients(factor, p + row);
  if (factors != nullptr)
#pragma unroll
    for (int i = 0; i < VEC; ++i) factor[i] *= factors[g * images + place / size];
  Values<T, VEC> values = load<VEC>(static_cast<const T*>(grads.at[g]) + place * VEC);
#pragma unroll
  for (int i = 0; i < VEC; ++i) values.v[i] *= factor[i];
  if (q != nullptr) {
    const Values<T, VEC> z = load<VEC>(static_cast<const T*>(zs.at[g]) + place * VEC);
    Scalar<T> more[VEC], constant[VEC];
    load_coefficients(more, q + row);
    load_coefficients(constant, r + row);
#pragma unroll
    for (int i = 0; i < VEC; ++i) values.v[i] += more[i] * z.v[i] + constant[i];
  }
  store<VEC>(out + (g * images * size + place) * VEC, values);
}

}  // namespace

void scaled_sums(const ScaledSums& args, int device, void* stream) {
  const OnDevice guard(device);
  const bool read = args.q != nullptr;
  const bool wide = args.channels % full_of(args.dtype) == 0 && aligned(args.out) &&
                    aligned(args.p) && aligned(args.q) && aligned(args.r) &&
                    aligned(args.grads, args.groups) && (!read || aligned(args.zs, args.groups));
  for_dtype(args.dtype, wide, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    const dim3 grid(blocks(ceil_div(args.images * args.pixels * (args.channels / VEC), THREADS)),
                    static_cast<unsigned>(args.groups));
    SSFNAS_LAUNCH((scaled_sums_kernel<T, VEC>), grid, THREADS, 0, stream,
                  inputs(args.grads, args.groups), read ? inputs(args.zs, args.groups) : Inputs{},
                  static_cast<const Scalar<T>*>(args.p), static_cast<const Scalar<T>*>(args.q),
                  static_cast<const Scalar<T>*>(args.r),
                  static_cast<const Scalar<T>*>(args.factors), static_cast<T*>(args.out),
                  args.images, args.pixels, static_cast<int>(args.channels));
    check(cudaGetLastError(), "scaled_sums");
  });
}

}  // namespace cuda
}  // namespace ssfnas
