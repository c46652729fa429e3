// A cell's entry on CPUs: ReLU and a 1x1 convolution of every pixel.

#include "pixel_products.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

template <class Arguments>
PixelProducts<1> products_of(const Arguments& args) {
  return {args.pixels, args.tensors, args.inputs, 1, {args.outputs}, args.xs, {&args.weight}};
}

}  // namespace

void pointwise_forward(const PointwiseForward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) {
    forward_products<decltype(value)>(EveryPixel{}, products_of(args), &args.z, args.mean,
                                      args.var, threads);
  });
}

void pointwise_backward(const PointwiseBackward& args, int threads) {
  const ProductGradients gradients{&args.z, &args.grad, args.p,  args.q,    args.r,
                                   nullptr, args.pixels, args.dxs, args.into};
  void* const* const d_weights[1] = {args.d_weight == nullptr ? nullptr : &args.d_weight};
  for_dtype(args.dtype, [&](auto value) {
    backward_products<decltype(value)>(EveryPixel{}, products_of(args), gradients, d_weights,
                                       threads);
  });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
