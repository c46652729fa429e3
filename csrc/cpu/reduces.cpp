// Factorized reduces on CPUs: ReLU and 1x1 convolutions of every other pixel of every other row.
//
// A pixel of a result and the 2x2 pixels of the images that it stands for belong together: the two
// on the diagonal are read, and gradients of all four are written where it is computed.

#include "pixel_products.h"

namespace ssfnas {
namespace SSFNAS_ISA {
namespace {

// Kind 0: pixels [2i, 2j], kind 1: [2i + 1, 2j + 1].
class EveryOtherPixel {
 public:
  static constexpr int KINDS = 2;
  static constexpr bool PICKED = true;
  static int64_t room(int64_t pixels) { return 2 * KINDS * pixels; }

  explicit EveryOtherPixel(const Reduces& given) : height_(given.height), width_(given.width) {}

  // Negative: beyond the image.
  struct Places {
    const int64_t *picked, *skipped;  // [2][length]
    int64_t first, length;

    int64_t operator()(int kind, int64_t pixel) const {
      return picked[kind * length + pixel - first];
    }
    // The other one of the pixels [., 2j] and [., 2j + 1].
    int64_t beside(int kind, int64_t pixel) const {
      return skipped[kind * length + pixel - first];
    }
  };

  Places of(int64_t first, int64_t last, int64_t* room) const {
    const int64_t length = last - first;
    int64_t *picked = room, *skipped = room + KINDS * length;
    const int64_t rows = ceil_div(height_, 2), columns = ceil_div(width_, 2);
    int64_t x = first % columns, y = first / columns % rows, image = first / columns / rows;
    for (int64_t i = 0; i < length; ++i) {
      for (int kind = 0; kind < KINDS; ++kind) {
        const int64_t row = 2 * y + kind, pixel = (image * height_ + row) * width_ + 2 * x;
        const bool second = 2 * x + 1 < width_;
        const int64_t pair[2] = {row < height_ ? pixel : -1,
                                 row < height_ && second ? pixel + 1 : -1};
        picked[kind * length + i] = pair[kind];
        skipped[kind * length + i] = pair[1 - kind];
      }
      if (++x < columns) continue;
      x = 0;
      if (++y < rows) continue;
      y = 0, ++image;
    }
    return {picked, skipped, first, length};
  }

 private:
  int64_t height_, width_;
};

int64_t pixels_of_image(const Reduces& given) {
  return ceil_div(given.height, 2) * ceil_div(given.width, 2);
}

PixelProducts<2> products_of(const Reduces& given) {
  return {given.images * pixels_of_image(given),
          given.tensors,
          given.inputs,
          given.groups,
          {given.even_outputs, given.odd_outputs},
          given.xs,
          {given.even, given.odd}};
}

}  // namespace

void reduces_forward(const ReducesForward& args, int threads) {
  for_dtype(args.reduces.dtype, [&](auto value) {
    forward_products<decltype(value)>(EveryOtherPixel(args.reduces), products_of(args.reduces),
                                      args.zs, args.mean, args.var, threads);
  });
}

void reduces_backward(const ReducesBackward& args, int threads) {
  const ProductGradients gradients{
      args.zs,      args.grads, args.p, args.q, args.r, args.factors, pixels_of_image(args.reduces),
      args.dxs, args.add ? args.dxs : nullptr};
  void* const* const d_weights[2] = {args.d_even, args.d_odd};
  for_dtype(args.reduces.dtype, [&](auto value) {
    backward_products<decltype(value)>(EveryOtherPixel(args.reduces), products_of(args.reduces),
                                       gradients, d_weights, threads);
  });
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
