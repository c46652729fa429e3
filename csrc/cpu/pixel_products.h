// ReLU and a product over channels on CPUs, z_g = weight_g relu(x), from T tensors side by side to G
// results, and gradients.
//
// A result's pixel is made of a pixel of the tensors, or of several kinds of them, each of which
// leads to some of its channels; `Pixels` says where they are. Tiles of pixels are rectified in the
// first level of cache and mixed there, once for all results. Sums over pixels are kept for blocks
// that depend on shapes alone and added in order, so that results do not depend on the number of
// threads.
#pragma once

#include "instruction_sets.h"
#include "moments.h"
#include "products.h"

namespace ssfnas {
namespace SSFNAS_ISA {

constexpr int64_t TILE_VALUES = 8192;        // of input and output, about
constexpr int64_t LEAST_PIXELS = 16;         // of a tile
constexpr int64_t FORWARD_BLOCKS = 64;       // at most, each with moments of its own
constexpr int64_t BACKWARD_BLOCKS = 32;      // at most, each with sums for the weights
constexpr int64_t LEAST_BLOCKS = 8;
constexpr int64_t MOST_SUMS = 1 << 20;       // over all blocks, while there are more than the least

// What is computed, as both passes have it. KINDS: of pixels.
template <int KINDS>
struct PixelProducts {
  int64_t pixels, tensors, inputs;      // pixels of a result; T, and the channels of each
  int64_t groups, outputs[KINDS];       // G, and the channels of each that a kind leads to
  const void* const* xs;                // [T]
  const void* const* weights[KINDS];    // [G] -> [outputs, T I]
};

// The channels of every result that one kind of pixels leads to.
struct Slice {
  int64_t first, outputs;   // of a result's channels
  int64_t vectors, padded;  // of a result
  int64_t width;            // lanes of all results
  int64_t start;            // lanes of the slices before
};

template <int KINDS>
struct Widths {
  int64_t pixels, tensors, inputs, groups;
  int64_t channels;                // of a result
  int64_t vectors_in, padded_one;  // of a tensor
  int64_t padded_in, padded_out;   // lanes of all tensors, and of all slices
  int64_t tile;                    // pixels
  Slice slices[KINDS];

  template <class S>
  static Widths of(const PixelProducts<KINDS>& given) {
    constexpr int64_t L = lanes<S>;
    Widths w{};
    w.pixels = given.pixels, w.tensors = given.tensors;
    w.inputs = given.inputs, w.groups = given.groups;
    w.vectors_in = ceil_div(w.inputs, L);
    w.padded_one = w.vectors_in * L, w.padded_in = w.tensors * w.padded_one;
    for (int k = 0; k < KINDS; ++k) {
      Slice& s = w.slices[k];
      s.first = w.channels, s.outputs = given.outputs[k];
      s.vectors = ceil_div(s.outputs, L);
      s.padded = s.vectors * L, s.width = w.groups * s.padded;
      s.start = w.padded_out;
      w.channels += s.outputs, w.padded_out += s.width;
    }
    w.tile = larger(LEAST_PIXELS, TILE_VALUES / (w.padded_in + w.widest()) / 8 * 8);
    return w;
  }
  int64_t widest() const {
    int64_t lanes = 0;
    for (const Slice& s : slices) lanes = larger(lanes, s.width);
    return lanes;
  }
  // Pixels of each of at most so many blocks: whole tiles.
  int64_t block(int64_t most) const { return ceil_div(ceil_div(pixels, most), tile) * tile; }
};

// The products from tensors to results, or back, of each kind of pixels.
template <class T, int KINDS>
class PixelMixings {
  using S = Scalar<T>;

 public:
  PixelMixings(const PixelProducts<KINDS>& given, const Widths<KINDS>& w, bool back)
      : weights_(back ? w.groups * w.channels * w.padded_in : w.tensors * w.inputs * w.padded_out),
        packed_(halves_of(w, back)) {
    S* weights = weights_.at(0);
    bfloat16* packed = packed_.at(0);
    for (int k = 0; k < KINDS; ++k) {
      const Slice& s = w.slices[k];
      const Channels from = back ? Channels{w.groups, s.outputs} : Channels{w.tensors, w.inputs};
      const int64_t width = back ? w.padded_in : s.width;
      clear(weights, from.tensors * from.each * width);
      for (int64_t g = 0; g < w.groups; ++g) {
        const S* weight = static_cast<const S*>(given.weights[k][g]);
        if (back)
          pack_back(weight, w, s, weights + g * s.outputs * width);
        else
          pack(weight, w, s, weights + g * s.padded);
      }
      mixings_[k] = Mixing<T>(weights, from, width, packed);
      weights += from.tensors * from.each * width;
      packed += halves_of(w, s, back);
    }
  }
  const Mixing<T>& operator[](int k) const { return mixings_[k]; }

 private:
  static int64_t halves_of(const Widths<KINDS>& w, const Slice& s, bool back) {
    return back ? Mixing<T>::size(w.groups * s.vectors, w.padded_in)
                : Mixing<T>::size(w.tensors * w.vectors_in, s.width);
  }
  static int64_t halves_of(const Widths<KINDS>& w, bool back) {
    int64_t size = 0;
    for (const Slice& s : w.slices) size += halves_of(w, s, back);
    return size;
  }
  // A weight as the loops want it: [T I][width], and [outputs][padded inputs].
  static void pack(const S* weight, const Widths<KINDS>& w, const Slice& s, S* to) {
    const int64_t inputs = w.tensors * w.inputs;
    for (int64_t o = 0; o < s.outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i) to[i * s.width + o] = weight[o * inputs + i];
  }
  static void pack_back(const S* weight, const Widths<KINDS>& w, const Slice& s, S* to) {
    for (int64_t o = 0; o < s.outputs; ++o)
      for (int64_t t = 0; t < w.tensors; ++t)
        for (int64_t i = 0; i < w.inputs; ++i)
          to[o * w.padded_in + t * w.padded_one + i] = weight[(o * w.tensors + t) * w.inputs + i];
  }

  AlignedWorkspace<S> weights_;
  AlignedWorkspace<bfloat16> packed_;
  Mixing<T> mixings_[KINDS];
};

// Every pixel of the tensors makes one of the results.
struct EveryPixel {
  static constexpr int KINDS = 1;
  static constexpr bool PICKED = false;
  // Of places, for so many pixels.
  static int64_t room(int64_t) { return 0; }

  // Where the pixels of a block are in the tensors.
  struct Places {
    int64_t operator()(int, int64_t pixel) const { return pixel; }
  };
  Places of(int64_t, int64_t, int64_t*) const { return {}; }
};

// relu of `count` pixels of all tensors from pixel `at` on: to[tensor][vector][pixel]; NaN stays
// NaN, and a pixel beyond the image is zero.
template <class T, class Pixels>
void rectify_tile(const void* const* xs, const Widths<Pixels::KINDS>& w,
                  const typename Pixels::Places& places, int kind, int64_t at, int64_t count,
                  Scalar<T>* to) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t t = 0; t < w.tensors; ++t)
    for (int64_t v = 0; v < w.vectors_in; ++v, to += count * L) {
      const T* x = static_cast<const T*>(xs[t]) + v * L;
      const int64_t n = lanes_of<S>(v, w.inputs);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t place = places(kind, at + i);
        if (Pixels::PICKED && place < 0) {
          put(to + i * L, Vector<S>{});
          continue;
        }
        const Vector<S> value = load_some(x + place * w.inputs, n);
        put(to + i * L, value < 0 ? Vector<S>{} : value);
      }
    }
}

// The pixels that come after those of a kind from pixel `at` on, if they are before the last.
template <class T, class Pixels>
void fetch_next(const void* const* xs, const Widths<Pixels::KINDS>& w,
                const typename Pixels::Places& places, int kind, int64_t at, int64_t last) {
  const bool same = kind + 1 < Pixels::KINDS;
  const int64_t from = same ? at : at + w.tile, count = smaller(w.tile, last - from);
  for (int64_t t = 0; t < w.tensors; ++t) {
    const T* x = static_cast<const T*>(xs[t]);
    if constexpr (!Pixels::PICKED) {
      fetch(x + from * w.inputs, count * w.inputs);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t place = places(same ? kind + 1 : 0, from + i);
        if (place >= 0) fetch(x + place * w.inputs, w.inputs);
      }
    }
  }
}

// Channels of a slice, to a result that has `channels` in all.
template <class T>
void store_tile(const Scalar<T>* from, int64_t outputs, int64_t channels, int64_t count, T* to) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v * L < outputs; ++v, from += count * L) {
    const int64_t n = lanes_of<S>(v, outputs);
    for (int64_t i = 0; i < count; ++i)
      store_some(to + i * channels + v * L, get(from + i * L), n);
  }
}

// Means and sums of squared deviations of blocks, [blocks][padded], to those of all pixels, [G,
// channels].
template <class S, int KINDS>
void merge_blocks(const S* means, const S* squares, const Widths<KINDS>& w, int64_t block, S* mean,
                  S* var) {
  const int64_t blocks = ceil_div(w.pixels, block);
  const auto count = [&](int64_t b) {
    return static_cast<double>(smaller(block, w.pixels - b * block));
  };
  for (const Slice& s : w.slices)
    for (int64_t g = 0; g < w.groups; ++g)
      for (int64_t c = 0; c < s.outputs; ++c) {
        const int64_t from = s.start + g * s.padded + c, to = g * w.channels + s.first + c;
        double center = 0, square = 0;
        for (int64_t b = 0; b < blocks; ++b) center += count(b) * means[b * w.padded_out + from];
        center /= static_cast<double>(w.pixels);
        for (int64_t b = 0; b < blocks; ++b) {
          const double shift = means[b * w.padded_out + from] - center;
          square += squares[b * w.padded_out + from] + count(b) * shift * shift;
        }
        mean[to] = static_cast<S>(center);
        var[to] = static_cast<S>(square / static_cast<double>(w.pixels));
      }
}

// zs [G] -> [pixels, channels]; mean and var [G, channels].
template <class T, class Pixels>
void forward_products(const Pixels& pixels, const PixelProducts<Pixels::KINDS>& given,
                      void* const* zs, void* mean_of_all, void* var_of_all, int threads) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>, KINDS = Pixels::KINDS;
  const auto w = Widths<KINDS>::template of<S>(given);
  const PixelMixings<T, KINDS> mixings(given, w, false);
  const int64_t block = w.block(FORWARD_BLOCKS), blocks = ceil_div(w.pixels, block);
  const AlignedWorkspace<S> means(blocks * w.padded_out), squares(blocks * w.padded_out);
  threads = threads_for(w.pixels * w.padded_in * KINDS, threads);
  const int64_t scratch = w.tile * (2 * w.padded_in + w.widest()), room = pixels.room(block);
  const AlignedWorkspace<S> memory(threads * scratch);
  const AlignedWorkspace<int64_t> rooms(threads * room);
#pragma omp parallel num_threads(threads)
  {
    [[maybe_unused]] const MatrixUnit<T> unit;
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; ++b) {
      S* tile = memory.at(this_thread() * scratch);
      S* mixed = tile + w.tile * w.padded_in;
      bfloat16* halves = reinterpret_cast<bfloat16*>(mixed + w.tile * w.widest());
      const int64_t first = b * block, last = smaller(w.pixels, first + block);
      const auto places = pixels.of(first, last, rooms.at(this_thread() * room));
      for (int64_t at = first; at < last; at += w.tile) {
        const int64_t count = smaller(w.tile, last - at), plane = count * L;
        for (int k = 0; k < KINDS; ++k) {
          const Slice& s = w.slices[k];
          S* mean = means.at(b * w.padded_out + s.start);
          S* square = squares.at(b * w.padded_out + s.start);
          rectify_tile<T, Pixels>(given.xs, w, places, k, at, count, tile);
          fetch_next<T, Pixels>(given.xs, w, places, k, at, last);
          mixings[k](tile, plane, mixed, plane, count, halves);
          for (int64_t v = 0; v < w.groups * s.vectors; ++v) {
            const Moments<S> all = merged<S>({get(mean + v * L), get(square + v * L), at - first},
                                             moments_of(mixed + v * plane, count));
            put(mean + v * L, all.mean);
            put(square + v * L, all.square);
          }
          for (int64_t g = 0; g < w.groups; ++g)
            store_tile(mixed + g * s.vectors * plane, s.outputs, w.channels, count,
                       static_cast<T*>(zs[g]) + at * w.channels + s.first);
        }
      }
    }
  }
  merge_blocks(means.at(0), squares.at(0), w, block, static_cast<S*>(mean_of_all),
               static_cast<S*>(var_of_all));
}

// dz = p f_n grad + q z + r of all results, and where gradients go.
struct ProductGradients {
  const void* const* zs;      // [G]; not read where q is null
  const void* const* grads;   // [G]
  const void *p, *q, *r;      // [G, channels]; q and r may be null
  const void* factors;        // [G, images], or null
  int64_t image;              // pixels of a result's image
  void* const* dxs;           // [T], or null
  const void* const* into;    // [T], added to them; or null. Picked pixels: where they go
};

// Coefficients of each slice and result, with zeros in the lanes beyond.
template <class S>
class SliceRows {
 public:
  template <int KINDS>
  SliceRows(const void* values, const Widths<KINDS>& w)
      : given_(values != nullptr), rows_(given_ ? w.padded_out : 0) {
    if (!given_) return;
    clear(rows_.at(0), w.padded_out);
    for (const Slice& s : w.slices)
      for (int64_t g = 0; g < w.groups; ++g)
        __builtin_memcpy(rows_.at(s.start + g * s.padded),
                         static_cast<const S*>(values) + g * w.channels + s.first,
                         s.outputs * sizeof(S));
  }
  const S* at(int64_t lane) const { return given_ ? rows_.at(lane) : nullptr; }

 private:
  bool given_;
  AlignedWorkspace<S> rows_;
};

// Coefficients of a slice of one result.
template <class S>
struct SliceRow {
  const S *p, *q, *r;
  const S* factors;  // [images], or null
  int64_t image;
};

// dz of `count` pixels from pixel `at` on: to[vector][pixel]. A result has `channels` in all.
template <class T>
void gradient_tile(const T* grad, const T* z, const SliceRow<Scalar<T>>& row, int64_t outputs,
                   int64_t channels, int64_t at, int64_t count, Scalar<T>* to) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t v = 0; v * L < outputs; ++v, to += count * L) {
    const int64_t n = lanes_of<S>(v, outputs);
    const Vector<S> of_z = row.q == nullptr ? Vector<S>{} : get(row.q + v * L);
    const Vector<S> of_one = row.q == nullptr ? Vector<S>{} : get(row.r + v * L);
    for (int64_t i = 0; i < count;) {
      Vector<S> of_grad = get(row.p + v * L);
      int64_t stop = count;
      if (row.factors != nullptr) {
        const int64_t image = (at + i) / row.image;
        of_grad *= row.factors[image];
        stop = smaller(count, (image + 1) * row.image - at);
      }
      for (; i < stop; ++i) {
        Vector<S> value = of_grad * load_some(grad + i * channels + v * L, n);
        if (row.q != nullptr) value += of_z * load_some(z + i * channels + v * L, n) + of_one;
        put(to + i * L, value);
      }
    }
  }
}

// The gradients of `count` pixels of all tensors from pixel `at` on where they are positive, added
// to `into` if that is there. If not, what lies beside picked pixels gets zeros.
template <class T, class Pixels>
void store_inputs(const Scalar<T>* gradient, const Scalar<T>* rectified,
                  const Widths<Pixels::KINDS>& w, const typename Pixels::Places& places, int kind,
                  int64_t at, int64_t count, void* const* dxs, const void* const* into) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>;
  for (int64_t t = 0; t < w.tensors; ++t)
    for (int64_t v = 0; v < w.vectors_in; ++v, gradient += count * L, rectified += count * L) {
      T* dx = static_cast<T*>(dxs[t]) + v * L;
      const T* from = into == nullptr ? nullptr : static_cast<const T*>(into[t]) + v * L;
      const int64_t n = lanes_of<S>(v, w.inputs);
      for (int64_t i = 0; i < count; ++i) {
        const Vector<S> value = get(rectified + i * L) > 0 ? get(gradient + i * L) : Vector<S>{};
        const int64_t place = places(kind, at + i);
        if (from != nullptr) {
          const int64_t offset = place * w.inputs;
          if (place >= 0) store_some(dx + offset, load_some(from + offset, n) + value, n);
        } else if constexpr (!Pixels::PICKED) {
          store_some(dx + place * w.inputs, value, n);
        } else {
          const int64_t beside = places.beside(kind, at + i);
          if (place >= 0) store_some(dx + place * w.inputs, value, n);
          if (beside >= 0) store_some(dx + beside * w.inputs, Vector<S>{}, n);
        }
      }
    }
}

// d_weights: like the weights, or null for each kind.
template <class T, class Pixels>
void backward_products(const Pixels& pixels, const PixelProducts<Pixels::KINDS>& given,
                       const ProductGradients& of,
                       void* const* const (&d_weights)[Pixels::KINDS], int threads) {
  using S = Scalar<T>;
  constexpr int L = lanes<T>, KINDS = Pixels::KINDS;
  const auto w = Widths<KINDS>::template of<S>(given);
  const SliceRows<S> p(of.p, w), q(of.q, w), r(of.r, w);
  const PixelMixings<T, KINDS> mixings(given, w, true);
  const bool wanted = d_weights[0] != nullptr;
  const int64_t size = wanted ? w.padded_in * w.padded_out : 0;
  int64_t most = BACKWARD_BLOCKS;
  while (most > LEAST_BLOCKS && most * size > MOST_SUMS) most /= 2;
  const int64_t block = w.block(wanted ? most : FORWARD_BLOCKS), blocks = ceil_div(w.pixels, block);
  const AlignedWorkspace<S> sums(blocks * size);
  threads = threads_for(w.pixels * w.padded_in * KINDS, threads);
  const int64_t widest = w.widest();
  const int64_t halved = w.tile * widest + paired_size<T>(widest / L + 1, w.tile) / 2;
  const int64_t scratch = w.tile * (2 * w.padded_in + widest) + halved, room = pixels.room(block);
  const AlignedWorkspace<S> memory(threads * scratch);
  const AlignedWorkspace<int64_t> rooms(threads * room);
#pragma omp parallel num_threads(threads)
  {
    [[maybe_unused]] const MatrixUnit<T> unit;
#pragma omp for schedule(dynamic, 1)
    for (int64_t b = 0; b < blocks; ++b) {
      S* rectified = memory.at(this_thread() * scratch);
      S* gradient = rectified + w.tile * w.padded_in;
      S* dz = gradient + w.tile * w.padded_in;
      bfloat16* halves = reinterpret_cast<bfloat16*>(dz + w.tile * widest);
      S* own = sums.at(b * size);
      clear(own, size);
      const int64_t first = b * block, last = smaller(w.pixels, first + block);
      const auto places = pixels.of(first, last, rooms.at(this_thread() * room));
      for (int64_t at = first; at < last; at += w.tile) {
        const int64_t count = smaller(w.tile, last - at), plane = count * L;
        for (int k = 0; k < KINDS; ++k) {
          const Slice& s = w.slices[k];
          rectify_tile<T, Pixels>(given.xs, w, places, k, at, count, rectified);
          for (int64_t g = 0; g < w.groups; ++g) {
            const int64_t row = s.start + g * s.padded, from = at * w.channels + s.first;
            const S* factors = static_cast<const S*>(of.factors);
            if (factors != nullptr) factors += g * (w.pixels / of.image);
            gradient_tile(static_cast<const T*>(of.grads[g]) + from,
                          of.q == nullptr ? nullptr : static_cast<const T*>(of.zs[g]) + from,
                          SliceRow<S>{p.at(row), q.at(row), r.at(row), factors, of.image},
                          s.outputs, w.channels, at, count, dz + g * s.vectors * plane);
          }
          fetch_next<T, Pixels>(given.xs, w, places, k, at, last);
          if (wanted)
            add_pixel_products<T>(rectified, {w.tensors, w.inputs}, dz, plane, count,
                                  own + w.padded_in * s.start, s.width, halves);
          if (of.dxs == nullptr) continue;
          mixings[k](dz, plane, gradient, plane, count, halves);
          store_inputs<T, Pixels>(gradient, rectified, w, places, k, at, count, of.dxs, of.into);
        }
      }
    }
  }
  if (!wanted) return;
  for (int k = 0; k < KINDS; ++k) {
    const Slice& s = w.slices[k];
    for (int64_t g = 0; g < w.groups; ++g) {
      S* d_weight = static_cast<S*>(d_weights[k][g]);
      const S* own = sums.at(w.padded_in * s.start + g * s.padded);
      for (int64_t t = 0; t < w.tensors; ++t)
        for (int64_t i = 0; i < w.inputs; ++i)
          for (int64_t o = 0; o < s.outputs; ++o) {
            S total = 0;
            for (int64_t b = 0; b < blocks; ++b)
              total += own[b * size + (t * w.padded_one + i) * s.width + o];
            d_weight[(o * w.tensors + t) * w.inputs + i] = total;
          }
    }
  }
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
