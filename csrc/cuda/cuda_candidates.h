// Candidates on GPUs: separable units whole, or what is left of them once their 1x1 convolutions
// are matrix products.
//
// D_g = depthwise_g * relu(u_g), u_g = scale_gc x_g + shift_gc, all [N, H, W, C]. What belongs to
// the groups' results is stacked, [G, N, Ho, Wo, C]. Only fused calls look at `pointwise`.
#pragma once

#include "../primitives.h"

namespace ssfnas {
namespace cuda {

struct DepthwiseForward {
  SeparableUnits units;
  void* out;  // D
};

// From dD the gradient of a shared input, summed over groups, or of every u_g.
struct DepthwiseBackwardInput {
  SeparableUnits units;
  const void* dd;
  const void* into;    // added to the gradient of a shared input; may be where it goes; or null
  void* const* dxs;    // [1] or [G]
  void* sums;          // [2, G, C]: sum du_g and sum du_g (x_g - center_g); null where x is shared
  void* partials;      // room for depthwise_input_partials(...), or null like the sums
  const void* center;  // [G, C], or null for zeros
};

struct DepthwiseBackwardFilter {
  SeparableUnits units;
  const void* dd;
  void* df;        // [C, size, size] of each group, one behind the other
  void* partials;  // room for depthwise_filter_partials(...)
};

// out_g = p_gc f_gn grad_g + q_gc z_g + r_gc, stacked
struct ScaledSums {
  Dtype dtype;
  int64_t groups, images, pixels, channels;  // pixels of an image
  const void* const* grads;  // [G]
  const void* const* zs;     // [G]; not read where q is null
  const void* p;             // [G, C]
  const void* q;             // [G, C], or null together with r
  const void* r;             // [G, C]
  const void* factors;       // [G, images], or null for ones
  void* out;                 // [G, images, pixels, C]
};

// z, and mean and biased variance of each of its channels: of units that a block can hold.
struct FusedForward {
  SeparableUnits units;
  void* out;       // z
  void* mean;      // [G, C]
  void* var;       // [G, C]
  void* partials;  // room for fused_forward_partials(...)
};

// From dz_g = p_gc f_gn grad_g + q_gc z_g + r_gc, dD = W^T dz and dW = sum over pixels dz D^T.
struct FusedBackward {
  SeparableUnits units;
  const void* const* grads;  // [G]
  const void* const* zs;     // [G]; not read where q is null
  const void* p;             // [G, C]
  const void* q;             // [G, C], or null together with r
  const void* r;             // [G, C]
  const void* factors;       // [G, images], or null for ones
  void* dd;                  // dD
  void* dw;                  // [G, C, C], or null: then neither inputs nor D are looked at
  void* partials;            // room for fused_backward_partials(...), or null like dw
};

// Whether one block of a GPU can hold all channels of some tile.
bool fused_forward_fits(const SeparableUnits&);
bool fused_backward_fits(const SeparableUnits&);

// How many sums the calls need room for, in the arithmetic of sums.
int64_t depthwise_input_partials(const SeparableUnits&);
int64_t depthwise_filter_partials(const SeparableUnits&);
int64_t fused_forward_partials(const SeparableUnits&);
int64_t fused_backward_partials(const SeparableUnits&);

void fused_forward(const FusedForward&, int device, void* stream);
void fused_backward(const FusedBackward&, int device, void* stream);

void depthwise_forward(const DepthwiseForward&, int device, void* stream);
void depthwise_backward_input(const DepthwiseBackwardInput&, int device, void* stream);
void depthwise_backward_filter(const DepthwiseBackwardFilter&, int device, void* stream);
void scaled_sums(const ScaledSums&, int device, void* stream);

// Mean and variance of the results are not computed here.
void pools_forward(const PoolsForward&, int device, void* stream);
void pools_backward(const PoolsBackward&, int device, void* stream);

}  // namespace cuda
}  // namespace ssfnas
