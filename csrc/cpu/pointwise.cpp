// ReLU and a product over channels on CPUs, from one number of channels to another, and gradients.
//
// Tiles of pixels are rectified in the first level of cache and mixed there. Sums over pixels are
// kept for blocks that depend on shapes alone and added in order, so that results do not depend on
// the number of threads.

#include "instruction_sets.h"
#include "moments.h"
#include "products.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

constexpr int64_t TILE_VALUES = 8192;        // of input and output, about
constexpr int64_t LEAST_PIXELS = 16;         // of a tile
constexpr int64_t FORWARD_BLOCKS = 64;       // at most, each with moments of its own
constexpr int64_t BACKWARD_BLOCKS = 32;      // at most, each with sums for the weight
constexpr int64_t LEAST_BLOCKS = 8;
constexpr int64_t MOST_SUMS = 1 << 20;       // over all blocks, while there are more than the least

struct Widths {
  int64_t pixels, tensors, inputs, outputs;
  int64_t vectors_in, vectors_out;         // of a tensor
  int64_t padded_one, padded_in, padded_out;  // lanes of one input, of all, and of the output
  int64_t tile;                            // pixels

  template <class S, class Arguments>
  static Widths of(const Arguments& args) {
    constexpr int64_t L = lanes<S>;
    Widths w{};
    w.pixels = args.pixels, w.tensors = args.tensors;
    w.inputs = args.inputs, w.outputs = args.outputs;
    w.vectors_in = ceil_div(w.inputs, L), w.vectors_out = ceil_div(w.outputs, L);
    w.padded_one = w.vectors_in * L, w.padded_in = w.tensors * w.padded_one;
    w.padded_out = w.vectors_out * L;
    w.tile = larger(LEAST_PIXELS, TILE_VALUES / (w.padded_in + w.padded_out) / 8 * 8);
    return w;
  }
  // Pixels of each of at most so many blocks: whole tiles.
  int64_t block(int64_t most) const { return ceil_div(ceil_div(pixels, most), tile) * tile; }
};

// The weight as the loops want it: [T I][padded outputs], and [O][padded inputs].
template <class S>
void pack(const S* weight, const Widths& w, S* to) {
  const int64_t inputs = w.tensors * w.inputs;
  clear(to, inputs * w.padded_out);
  for (int64_t o = 0; o < w.outputs; ++o)
    for (int64_t i = 0; i < inputs; ++i) to[i * w.padded_out + o] = weight[o * inputs + i];
}

template <class S>
void pack_back(const S* weight, const Widths& w, S* to) {
  clear(to, w.outputs * w.padded_in);
  for (int64_t o = 0; o < w.outputs; ++o)
    for (int64_t t = 0; t < w.tensors; ++t)
      for (int64_t i = 0; i < w.inputs; ++i)
        to[o * w.padded_in + t * w.padded_one + i] = weight[(o * w.tensors + t) * w.inputs + i];
}

// relu of `count` pixels of all tensors from pixel `at` on: to[tensor][vector][pixel]; NaN stays
// NaN.
template <class T>
void rectify_tile(const void* const* xs, const Widths& w, int64_t at, int64_t count,
                  Scalar<T>* to) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t t = 0; t < w.tensors; ++t)
    for (int64_t v = 0; v < w.vectors_in; ++v, to += count * L) {
      const T* x = static_cast<const T*>(xs[t]) + at * w.inputs + v * L;
      const int64_t n = lanes_of<S>(v, w.inputs);
      for (int64_t i = 0; i < count; ++i) {
        const Vector<S> value = load_some(x + i * w.inputs, n);
        put(to + i * L, value < 0 ? Vector<S>{} : value);
      }
    }
}

// The tile from pixel `at` on, if that is before the last.
template <class T>
void fetch_tile(const void* const* xs, const Widths& w, int64_t at, int64_t last) {
  const int64_t count = smaller(w.tile, last - at);
  for (int64_t t = 0; t < w.tensors; ++t)
    fetch(static_cast<const T*>(xs[t]) + at * w.inputs, count * w.inputs);
}

template <class T>
void store_tile(const Scalar<T>* from, int64_t channels, int64_t count, T* to) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v * L < channels; ++v, from += count * L) {
    const int64_t n = lanes_of<S>(v, channels);
    for (int64_t i = 0; i < count; ++i)
      store_some(to + i * channels + v * L, get(from + i * L), n);
  }
}

// Means and sums of squared deviations of blocks, [blocks][padded], to those of all pixels.
template <class S>
void merge_blocks(const S* means, const S* squares, const Widths& w, int64_t block, S* mean,
                  S* var) {
  const int64_t blocks = ceil_div(w.pixels, block);
  const auto count = [&](int64_t b) {
    return static_cast<double>(smaller(block, w.pixels - b * block));
  };
  for (int64_t c = 0; c < w.outputs; ++c) {
    double center = 0, square = 0;
    for (int64_t b = 0; b < blocks; ++b) center += count(b) * means[b * w.padded_out + c];
    center /= static_cast<double>(w.pixels);
    for (int64_t b = 0; b < blocks; ++b) {
      const double shift = means[b * w.padded_out + c] - center;
      square += squares[b * w.padded_out + c] + count(b) * shift * shift;
    }
    mean[c] = static_cast<S>(center);
    var[c] = static_cast<S>(square / static_cast<double>(w.pixels));
  }
}

template <class T>
void forward(const PointwiseForward& args, int threads) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  const Widths w = Widths::of<S>(args);
  T* z = static_cast<T*>(args.z);
  const AlignedWorkspace<S> weights(w.tensors * w.inputs * w.padded_out);
  pack(static_cast<const S*>(args.weight), w, weights.at(0));
  const int64_t inputs = w.tensors * w.vectors_in;
  const AlignedWorkspace<bfloat16> packed(Mixing<T>::size(inputs, w.padded_out));
  const Mixing<T> mixing(weights.at(0), {w.tensors, w.inputs}, w.padded_out, packed.at(0));
  const int64_t block = w.block(FORWARD_BLOCKS), blocks = ceil_div(w.pixels, block);
  const AlignedWorkspace<S> means(blocks * w.padded_out), squares(blocks * w.padded_out);
  threads = threads_for(w.pixels * w.padded_in, threads);
  const int64_t scratch = w.tile * (2 * w.padded_in + w.padded_out);
  const AlignedWorkspace<S> memory(threads * scratch);
#pragma omp parallel num_threads(threads)
  {
    [[maybe_unused]] const MatrixUnit<T> unit;
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; ++b) {
      S* tile = memory.at(this_thread() * scratch);
      S* mixed = tile + w.tile * w.padded_in;
      bfloat16* halves = reinterpret_cast<bfloat16*>(mixed + w.tile * w.padded_out);
      S* mean = means.at(b * w.padded_out);
      S* square = squares.at(b * w.padded_out);
      const int64_t first = b * block, last = smaller(w.pixels, first + block);
      for (int64_t at = first; at < last; at += w.tile) {
        const int64_t count = smaller(w.tile, last - at), plane = count * L;
        rectify_tile<T>(args.xs, w, at, count, tile);
        fetch_tile<T>(args.xs, w, at + w.tile, last);
        mixing(tile, plane, mixed, plane, count, halves);
        for (int64_t v = 0; v < w.vectors_out; ++v) {
          const Moments<S> all = merged<S>({get(mean + v * L), get(square + v * L), at - first},
                                           moments_of(mixed + v * plane, count));
          put(mean + v * L, all.mean);
          put(square + v * L, all.square);
        }
        store_tile(mixed, w.outputs, count, z + at * w.outputs);
      }
    }
  }
  merge_blocks(means.at(0), squares.at(0), w, block, static_cast<S*>(args.mean),
               static_cast<S*>(args.var));
}

// Coefficients of a channel, with zeros in the lanes beyond.
template <class S>
class PaddedRow {
 public:
  PaddedRow(const void* values, const Widths& w)
      : given_(values != nullptr), row_(given_ ? w.padded_out : 0) {
    if (!given_) return;
    clear(row_.at(0), w.padded_out);
    __builtin_memcpy(row_.at(0), values, w.outputs * sizeof(S));
  }
  const S* get() const { return given_ ? row_.at(0) : nullptr; }

 private:
  bool given_;
  AlignedWorkspace<S> row_;
};

// dz = p grad + q z + r of `count` pixels: to[vector][pixel]
template <class T>
void gradient_tile(const T* grad, const T* z, const Scalar<T>* p, const Scalar<T>* q,
                   const Scalar<T>* r, int64_t channels, int64_t count, Scalar<T>* to) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v * L < channels; ++v, to += count * L) {
    const int64_t n = lanes_of<S>(v, channels);
    const Vector<S> of_grad = get(p + v * L);
    const Vector<S> of_z = q == nullptr ? Vector<S>{} : get(q + v * L);
    const Vector<S> of_one = q == nullptr ? Vector<S>{} : get(r + v * L);
    for (int64_t i = 0; i < count; ++i) {
      Vector<S> value = of_grad * load_some(grad + i * channels + v * L, n);
      if (q != nullptr) value += of_z * load_some(z + i * channels + v * L, n) + of_one;
      put(to + i * L, value);
    }
  }
}

// The gradients of `count` pixels of all tensors from pixel `at` on where they are positive.
template <class T>
void store_inputs(const Scalar<T>* gradient, const Scalar<T>* rectified, const Widths& w,
                  int64_t at, int64_t count, void* const* dxs) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t t = 0; t < w.tensors; ++t)
    for (int64_t v = 0; v < w.vectors_in; ++v, gradient += count * L, rectified += count * L) {
      T* dx = static_cast<T*>(dxs[t]) + at * w.inputs + v * L;
      const int64_t n = lanes_of<S>(v, w.inputs);
      for (int64_t i = 0; i < count; ++i)
        store_some(dx + i * w.inputs,
                   get(rectified + i * L) > 0 ? get(gradient + i * L) : Vector<S>{}, n);
    }
}

template <class T>
void backward(const PointwiseBackward& args, int threads) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  const Widths w = Widths::of<S>(args);
  const T* z = static_cast<const T*>(args.z);
  const T* grad = static_cast<const T*>(args.grad);
  const PaddedRow<S> p(args.p, w), q(args.q, w), r(args.r, w);
  const AlignedWorkspace<S> weights(w.outputs * w.padded_in);
  pack_back(static_cast<const S*>(args.weight), w, weights.at(0));
  const AlignedWorkspace<bfloat16> packed(Mixing<T>::size(w.vectors_out, w.padded_in));
  const Mixing<T> mixing(weights.at(0), {1, w.outputs}, w.padded_in, packed.at(0));
  const bool wanted = args.d_weight != nullptr;
  const int64_t size = wanted ? w.padded_in * w.padded_out : 0;
  int64_t most = BACKWARD_BLOCKS;
  while (most > LEAST_BLOCKS && most * size > MOST_SUMS) most /= 2;
  const int64_t block = w.block(wanted ? most : FORWARD_BLOCKS), blocks = ceil_div(w.pixels, block);
  const AlignedWorkspace<S> sums(blocks * size);
  threads = threads_for(w.pixels * w.padded_in, threads);
  const int64_t halved = w.tile * w.padded_out + paired_size<T>(w.vectors_out + 1, w.tile) / 2;
  const int64_t scratch = w.tile * (2 * w.padded_in + w.padded_out) + halved;
  const AlignedWorkspace<S> memory(threads * scratch);
#pragma omp parallel num_threads(threads)
  {
    [[maybe_unused]] const MatrixUnit<T> unit;
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; ++b) {
      S* rectified = memory.at(this_thread() * scratch);
      S* gradient = rectified + w.tile * w.padded_in;
      S* dz = gradient + w.tile * w.padded_in;
      bfloat16* halves = reinterpret_cast<bfloat16*>(dz + w.tile * w.padded_out);
      S* own = sums.at(b * size);
      clear(own, size);
      const int64_t first = b * block, last = smaller(w.pixels, first + block);
      for (int64_t at = first; at < last; at += w.tile) {
        const int64_t count = smaller(w.tile, last - at), plane = count * L;
        rectify_tile<T>(args.xs, w, at, count, rectified);
        gradient_tile(grad + at * w.outputs, z + at * w.outputs, p.get(), q.get(), r.get(),
                      w.outputs, count, dz);
        fetch_tile<T>(args.xs, w, at + w.tile, last);
        if (wanted)
          add_pixel_products<T>(rectified, {w.tensors, w.inputs}, dz, plane, count, own,
                                w.padded_out, halves);
        if (args.dxs == nullptr) continue;
        mixing(dz, plane, gradient, plane, count, halves);
        store_inputs<T>(gradient, rectified, w, at, count, args.dxs);
      }
    }
  }
  if (!wanted) return;
  S* d_weight = static_cast<S*>(args.d_weight);
  for (int64_t t = 0; t < w.tensors; ++t)
    for (int64_t i = 0; i < w.inputs; ++i)
      for (int64_t o = 0; o < w.outputs; ++o) {
        S total = 0;
        for (int64_t b = 0; b < blocks; ++b)
          total += sums.at(b * size)[(t * w.padded_one + i) * w.padded_out + o];
        d_weight[(o * w.tensors + t) * w.inputs + i] = total;
      }
}

}  // namespace

void pointwise_forward(const PointwiseForward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { forward<decltype(value)>(args, threads); });
}

void pointwise_backward(const PointwiseBackward& args, int threads) {
  for_dtype(args.dtype, [&](auto value) { backward<decltype(value)>(args, threads); });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
