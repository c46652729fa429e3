// What every primitive takes: plain pointers and sizes, the same for CPUs and GPUs.
//
// Tensors are dense and in one layout. K is the number of tensors summed, C that of channels; sums,
// weights, coefficients and statistics are float, and double for double tensors.
#pragma once

#include <cstdint>

namespace ssfnas {

enum class Dtype : int { float32, float64, bfloat16, float16 };

// A tensor [N, C, ...] as memory [outer, channels, inner]; inner is 1 where channels lie next to
// each other (channels_last, or [N, C]).
struct Extent {
  int64_t outer, channels, inner;
};

// out = sum_k w_k x_k
struct MixedSumForward {
  Dtype dtype;
  int64_t count, length;  // K, and the elements of a tensor
  const void* const* xs;  // [K] -> [length]
  const void* weights;    // [K]
  void* out;              // [length]
};

// dx_k = w_k grad,  dw_k = <grad, x_k>
struct MixedSumBackward {
  Dtype dtype;
  int64_t count, length;
  const void* grad;
  const void* const* xs;  // not read where dweights is null
  const void* weights;
  void* const* dxs;  // [K] -> [length], null where unwanted
  void* dweights;    // [K], or null
  void* partials;    // GPUs: room for mixed_sum_partials(...) sums
};

// mean_kc and biased var_kc over outer * inner values
struct NormStatistics {
  Dtype dtype;
  int64_t count;
  Extent extent;
  const void* const* zs;  // [K], null for rows that are not wanted and get 0 and 1
  void* mean;             // [K, C]
  void* var;              // [K, C]
  void* partials;
};

// out = sum_k a_kc z_k + b_c, or, with factors f of each image n, sum_k f_kn (a_kc z_k + b_kc)
struct NormSumForward {
  Dtype dtype;
  int64_t count;
  Extent extent;
  const void* const* zs;
  const void* a;        // [K, C]
  const void* b;        // [C], or [K, C] where there are factors
  void* out;
  const void* factors;  // CPUs: [K, images] where channels lie next to each other, or null
  int64_t images;       // that `outer` consists of
};

// S0_c = sum g,  S1_kc = rstd_kc sum g (z_k - mean_kc); with factors S0_kc, and f_kn g in place of g
struct NormSumReduce {
  Dtype dtype;
  int64_t count;
  Extent extent;
  const void* grad;
  const void* const* zs;
  const void* mean;  // [K, C]
  const void* rstd;  // [K, C]
  void* s0;          // [C], or [K, C] where there are factors
  void* s1;          // [K, C]
  void* partials;
  const void* factors;  // as in NormSumForward
  int64_t images;
};

// dz_k = p_kc g + q_kc z_k + r_kc
struct NormSumApply {
  Dtype dtype;
  int64_t count;
  Extent extent;
  const void* grad;
  const void* const* zs;
  const void *p, *q, *r;  // [K, C]
  void* const* dzs;       // [K], null where unwanted
};

// Separable units: z_g = pointwise_g (depthwise_g * relu(u_g)), u_g = scale_gc x_g + shift_gc.
// Images [N, H, W, C]: channels lie next to each other. Filters are in the dtype of sums.
struct SeparableUnits {
  Dtype dtype;
  int64_t groups, images, height, width, channels, stride;
  const int64_t* sizes;            // [G], odd: of the depthwise filters
  const int64_t* dilations;        // [G]
  const void* const* depthwise;    // [G] -> [C, size, size]
  const void* const* pointwise;    // [G] -> [C, C], outputs by inputs
  bool shared;                     // whether all groups have one input
  const void* const* xs;           // [G], or [1] where it is shared
  const void* scale;               // [G, C], or null
  const void* shift;               // [G, C], or null
};

// z_g, and mean and biased variance of each of its channels
struct SeparableForward {
  SeparableUnits units;
  void* const* zs;  // [G] -> [N, ceil(H / stride), ceil(W / stride), C]
  void* mean;       // [G, C]
  void* var;        // [G, C]
};

// From dz_g = p_gc f_gn grad_g + q_gc z_g + r_gc the gradient of the input: of the shared one, summed
// over groups, or else du_g, S0_gc = sum du_g and S1_gc = sum du_g (x_g - center_gc); and those of
// the filters.
struct SeparableBackward {
  SeparableUnits units;
  const void* const* zs;     // [G]; not read where q is null
  const void* const* grads;  // [G]
  const void* p;             // [G, C]
  const void* q;             // [G, C], or null together with r
  const void* r;             // [G, C]
  const void* into;          // added to the gradient of a shared input; may be where it goes; or null
  void* const* dxs;          // [1] or [G]
  void* s0;                  // [G, C]; null where the input is shared
  void* s1;                  // [G, C]
  const void* center;        // [G, C]; or null, for zeros
  const void* factors;       // [G, images]; or null, for ones
  void* const* d_depthwise;  // [G] -> [C, size, size]; null where no filter wants a gradient
  void* const* d_pointwise;  // [G] -> [C, C]
};

// z = weight relu(x), from T tensors of I channels each to one of O, and mean and biased variance of
// each channel of z
struct PointwiseForward {
  Dtype dtype;
  int64_t pixels, tensors, inputs, outputs;
  const void* const* xs;  // [T] -> [pixels, I]
  const void* weight;     // [O, T I], in the dtype of sums, as are the next two
  void* z;                // [pixels, O]
  void* mean;          // [O]
  void* var;           // [O]
};

// From dz = p_c grad + q_c z + r_c the gradients of all x and of the weight.
struct PointwiseBackward {
  Dtype dtype;
  int64_t pixels, tensors, inputs, outputs;
  const void* const* xs;
  const void* z;         // not read where q is null
  const void* grad;
  const void *p, *q, *r;  // [O]; q and r may be null
  const void* weight;
  const void* const* into;  // [T], added to dxs; or null
  void* const* dxs;       // [T], or null
  void* d_weight;         // [O, T I], or null
};

// Factorized reduces of T images [N, H, W, I] side by side: of a result's channels the first are
// even_g times relu(x) at [2i, 2j], those behind odd_g times relu(x) at [2i + 1, 2j + 1]. Pixels
// beyond an odd side are zero. Filters are in the dtype of sums.
struct Reduces {
  Dtype dtype;
  int64_t groups, tensors, images, height, width, inputs, even_outputs, odd_outputs;
  const void* const* xs;    // [T]
  const void* const* even;  // [G] -> [even outputs, T I]
  const void* const* odd;   // [G] -> [odd outputs, T I]
};

// z_g, and mean and biased variance of each of its channels
struct ReducesForward {
  Reduces reduces;
  void* const* zs;  // [G] -> [N, ceil(H / 2), ceil(W / 2), O]
  void* mean;       // [G, O]
  void* var;        // [G, O]
};

// From dz_g = p_gc f_gn grad_g + q_gc z_g + r_gc the gradients of all x, summed over groups, and of
// the filters.
struct ReducesBackward {
  Reduces reduces;
  const void* const* zs;     // [G]; not read where q is null
  const void* const* grads;  // [G]
  const void *p, *q, *r;     // [G, O]; q and r may be null
  const void* factors;       // [G, N]; or null, for ones
  void* const* dxs;          // [T], or null
  bool add;                  // to what dxs hold
  void* const* d_even;       // [G] -> [even outputs, T I]; both null where no filter wants a gradient
  void* const* d_odd;
};

// Largest and average of 3x3 windows (of the pixels inside), and mean and variance of both.
struct PoolsForward {
  Dtype dtype;
  int64_t images, height, width, channels, stride;
  const void* x;
  void* largest;
  void* average;
  void* mean;  // [2, C]
  void* var;   // [2, C]
};

// A maximum's gradient goes to the first of equal pixels, row by row.
struct PoolsBackward {
  Dtype dtype;
  int64_t images, height, width, channels, stride;
  const void* x;          // not read where d_largest is null
  const void* d_largest;  // or null
  const void* d_average;  // or null
  const void* into;       // added; may be where the gradient goes; or null
  void* dx;
};

// Partial channels: of the C channels of a state the first P = C / share are its head, the other R
// its rest. Images [N, H, W, C]. Factors are in the dtype of sums, as are their gradients.

// The head, and at stride 2 the maxima of 2x2 pixels of the rest, of fewer where an odd side ends
struct SplitForward {
  Dtype dtype;
  int64_t images, height, width, channels, share;
  const void* x;
  void* head;  // [N, H, W, P]
  void* rest;  // [N, ceil(H / 2), ceil(W / 2), R]; null at stride 1
};

// dx = cat(d_head, sum_t b_t d_rest_t), the latter at stride 2 where each maximum was: at the first
// of equal pixels, row by row.
struct SplitBackward {
  Dtype dtype;
  int64_t images, height, width, channels, share, stride, count;
  const void* x;               // not read at stride 1
  const void* d_head;          // or null, for zeros
  const void* const* d_rests;  // [T]
  const void* b;               // [T]
  void* dx;
};

// node = shuffle(cat(mixed, sum_e b_e rest_e)): channel j is (j mod share) P + j div share of that
struct MergeForward {
  Dtype dtype;
  int64_t pixels, channels, share, count;
  const void* const* passing;  // [E] -> [pixels, width]: the last R channels of each
  const int64_t* widths;       // [E]
  const void* mixed;           // [pixels, P]; or null, for zeros
  const void* b;               // [E]
  void* node;                  // [pixels, C]
  void* head;                  // [pixels, P]
};

// From g = outside + cat(d_head, sum_t b_t d_rest_t) what shuffle gives g for, and <rest of that,
// rest_e>.
struct MergeBackward {
  Dtype dtype;
  int64_t pixels, channels, share, count, later;
  const void* const* passing;  // [E], not read where d_factors is null
  const int64_t* widths;
  const void* outside;         // [pixels, C]; or null, for zeros
  const void* d_head;          // [pixels, P]; or null, for zeros
  const void* const* d_rests;  // [T] -> [pixels, R]
  const void* b;               // [T]
  void* d_mixed;               // [pixels, P]
  void* d_rest;                // [pixels, R]
  void* d_factors;             // [E], or null
};

// Rows of a table [5, R, C] of mean, var, rstd, scale and shift, from row `start` on.
struct EnterStatistics {
  Dtype dtype;  // float32 or float64, of everything, as in the next two
  int64_t count, rows, channels;
  void* table;
  int64_t start;
  const void *mean, *var;    // [K, C]
  const void *gamma, *beta;  // [K, C], or null
  double eps;
};

// mean, rstd and a = w scale, and b = sum w shift, or its parts
struct NodeCoefficients {
  Dtype dtype;
  int64_t count, rows, channels;
  const void* table;  // [5, R, C]
  const int64_t* places;  // [K], rows
  const void* weights;
  const int64_t* weight_places;  // [K]
  bool separate;
  void* out;  // [3, K, C]
  void* b;    // [C], or [K, C]
};

// p = a, q -= slope, r += slope mean - a s0 / values, with slope = a rstd s1 / values
struct GradientCoefficients {
  Dtype dtype;
  int64_t count, rows, channels;
  void* table;  // [T, C]
  const int64_t* places;  // [3, K], rows of p, q and r
  const void *a, *mean, *rstd;  // [K, C]
  const void* s0;  // [C], or [K, C]
  bool s0_each;
  const void* s1;  // [K, C]
  double values;
};

#define SSFNAS_PRIMITIVES(APPLY)                  \
  APPLY(mixed_sum_forward, MixedSumForward)       \
  APPLY(mixed_sum_backward, MixedSumBackward)     \
  APPLY(norm_statistics, NormStatistics)          \
  APPLY(norm_sum_forward, NormSumForward)         \
  APPLY(norm_sum_reduce, NormSumReduce)           \
  APPLY(norm_sum_apply, NormSumApply)

// Those of CPUs alone.
#define SSFNAS_CPU_PRIMITIVES(APPLY)                  \
  APPLY(separable_forward, SeparableForward)    \
  APPLY(separable_backward, SeparableBackward)  \
  APPLY(enter_statistics, EnterStatistics)      \
  APPLY(node_coefficients, NodeCoefficients)    \
  APPLY(gradient_coefficients, GradientCoefficients)  \
  APPLY(pointwise_forward, PointwiseForward)    \
  APPLY(pointwise_backward, PointwiseBackward)  \
  APPLY(reduces_forward, ReducesForward)        \
  APPLY(reduces_backward, ReducesBackward)      \
  APPLY(pools_forward, PoolsForward)            \
  APPLY(pools_backward, PoolsBackward)          \
  APPLY(split_forward, SplitForward)            \
  APPLY(split_backward, SplitBackward)          \
  APPLY(merge_forward, MergeForward)            \
  APPLY(merge_backward, MergeBackward)

}  // namespace ssfnas
