// Weighted sums with a factor per channel, and their gradients, on GPUs.

#include "mixed_norm_sum.cuh"

namespace ssfnas {
namespace cuda {
namespace {

template <class T, int VEC, bool INNER>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(const __grid_constant__ Inputs zs, const Scalar<T>* a, const Scalar<T>* b,
                   T* out, const ChannelTiling tiling, int count) {
  using Place = Spot<VEC, INNER>;
  using F = Factors<Scalar<T>, Place::CHANNELS>;
  const Place spot(tiling);
  const F bias(b + spot.channel);
  Values<T, VEC> total[STEPS];
#pragma unroll
  for (int s = 0; s < STEPS; ++s)
#pragma unroll
    for (int i = 0; i < VEC; ++i) total[s].v[i] = bias.at(i);
#pragma unroll 2
  for (int k = 0; k < count; ++k) {
    const T* z = static_cast<const T*>(zs.at[k]);
    const F factor(a + k * tiling.channels + spot.channel);
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      const Values<T, VEC> value = spot.load_at(z, s);
#pragma unroll
      for (int i = 0; i < VEC; ++i) total[s].v[i] += factor.at(i) * value.v[i];
    }
  }
#pragma unroll
  for (int s = 0; s < STEPS; ++s)
    if (spot.live[s]) store<VEC>(out + spot.at[s], total[s]);
}

template <class T, int VEC, bool INNER>
__global__ void __launch_bounds__(THREADS)
    apply_kernel(const T* grad, const __grid_constant__ Inputs zs, const Scalar<T>* p,
                 const Scalar<T>* q, const Scalar<T>* r, const __grid_constant__ Outputs dzs,
                 const ChannelTiling tiling, int count) {
  using Place = Spot<VEC, INNER>;
  using F = Factors<Scalar<T>, Place::CHANNELS>;
  const Place spot(tiling);
  Values<T, VEC> g[STEPS];
#pragma unroll
  for (int s = 0; s < STEPS; ++s) g[s] = spot.load_at(grad, s);
  for (int k = 0; k < count; ++k) {
    T* dz = static_cast<T*>(dzs.at[k]);
    if (dz == nullptr) continue;
    const T* z = static_cast<const T*>(zs.at[k]);
    const int64_t row = k * tiling.channels + spot.channel;
    const F of_g(p + row), of_z(q + row), of_one(r + row);
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      Values<T, VEC> value = spot.load_at(z, s);
#pragma unroll
      for (int i = 0; i < VEC; ++i)
        value.v[i] = of_g.at(i) * g[s].v[i] + (of_z.at(i) * value.v[i] + of_one.at(i));
      if (spot.live[s]) store<VEC>(dz + spot.at[s], value);
    }
  }
}

}  // namespace

void norm_sum_forward(const NormSumForward& args, int device, void* stream) {
  const OnDevice on(device);
  const Extent extent = merged(args.extent);
  const Inputs zs = inputs(args.zs, args.count);
  const bool is_aligned = aligned(args.zs, args.count) && aligned(args.out) && aligned(args.a) &&
                          aligned(args.b);
  for_layout(args.dtype, extent, is_aligned,
             [&](auto tag, auto vec, auto inner, const ChannelTiling& tiles) {
    using T = typename decltype(tag)::type;
    using S = Scalar<T>;
    forward_kernel<T, decltype(vec)::value, decltype(inner)::value != 0>
        <<<grid_of(tiles), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
            zs, static_cast<const S*>(args.a), static_cast<const S*>(args.b),
            static_cast<T*>(args.out), tiles, static_cast<int>(args.count));
  });
  check(cudaGetLastError(), "norm_sum_forward");
}

void norm_sum_apply(const NormSumApply& args, int device, void* stream) {
  const OnDevice on(device);
  const Extent extent = merged(args.extent);
  const Inputs zs = inputs(args.zs, args.count);
  const Outputs dzs = outputs(args.dzs, args.count);
  const bool is_aligned = aligned(args.zs, args.count) && aligned(args.dzs, args.count) &&
                          aligned(args.grad) && aligned(args.p) && aligned(args.q) &&
                          aligned(args.r);
  for_layout(args.dtype, extent, is_aligned,
             [&](auto tag, auto vec, auto inner, const ChannelTiling& tiles) {
    using T = typename decltype(tag)::type;
    using S = Scalar<T>;
    apply_kernel<T, decltype(vec)::value, decltype(inner)::value != 0>
        <<<grid_of(tiles), THREADS, 0, static_cast<cudaStream_t>(stream)>>>(
            static_cast<const T*>(args.grad), zs, static_cast<const S*>(args.p),
            static_cast<const S*>(args.q), static_cast<const S*>(args.r), dzs, tiles,
            static_cast<int>(args.count));
  });
  check(cudaGetLastError(), "norm_sum_apply");
}

}  // namespace cuda
}  // namespace ssfnas
