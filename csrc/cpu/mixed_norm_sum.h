// How tensors [outer, channels, inner] are walked for statistics and sums of channels on CPUs.
//
// A tensor is cut into blocks by its shape alone, so that results do not depend on the number of
// threads. Where channels lie next to each other a block's part is rows of all channels; else it is
// spans of one channel. What belongs to channels (factors, sums) is a row of `width` values.
#pragma once

#include "workspace.h"

namespace ssfnas {
namespace SSFNAS_ISA {

constexpr int UNROLL = 4;        // vectors of independent sums
constexpr int64_t BLOCK = 4096;  // elements of a tensor in a block, about: of half an L1

// Factors of a run of values, from where a row of them has them: one each, or one for all.
template <class T>
struct Each {
  const Scalar<T>* values;
  explicit Each(const Scalar<T>* from) : values(from) {}
  SSFNAS_INLINE Vector<T> at(const Each& e, int64_t i) { return load(e.values + i); }
  SSFNAS_INLINE Vector<T> at(const Each& e, int64_t i, int64_t n) { return load(e.values + i, n); }
};

template <class T>
struct All {
  Scalar<T> value;
  explicit All(const Scalar<T>* from) : value(*from) {}
  SSFNAS_INLINE Vector<T> at(const All& a, int64_t) { return everywhere<Vector<T>>(a.value); }
  SSFNAS_INLINE Vector<T> at(const All& a, int64_t, int64_t) {
    return everywhere<Vector<T>>(a.value);
  }
};

// Rows of a block, all of one image: runs of `width` values, the last one up to `end`.
template <class T>
struct RowsPart {
  using Factor = Each<T>;
  static constexpr int64_t channel = 0;  // the first
  int64_t block, image, offset, end, width;

  int64_t runs() const { return ceil_div(end - offset, width); }
  int64_t start(int64_t run) const { return offset + run * width; }
  int64_t length(int64_t run) const { return smaller(width, end - start(run)); }
};

// One channel of a block: `count` spans of `size` values, `stride` apart, the first at `offset`.
template <class T>
struct SpansPart {
  using Factor = All<T>;
  static constexpr int64_t image = 0;
  int64_t block, channel, offset, count, stride, size;

  int64_t runs() const { return count; }
  int64_t start(int64_t run) const { return offset + run * stride; }
  int64_t length(int64_t) const { return size; }
};

// Where channels lie next to each other: memory as rows of `width` values. A row holds several
// pixels where channels are few, so that it fills vectors. Where images count, no block has parts
// of two.
template <class T>
struct Rows {
  int64_t width, elements, block, blocks_of_image, blocks;  // elements: of an image

  static Rows of(const Extent& extent, int64_t images) {
    const int64_t tile = UNROLL * lanes<T>, channels = extent.channels;
    int64_t width = channels;
    double least = 2;
    // The fewest idle lanes; of those, the shortest row.
    for (int64_t pixels = 1; channels < tile && pixels * channels <= 4 * tile; ++pixels) {
      const int64_t full = ceil_div(pixels * channels, tile) * tile;
      const double idle = double(full - pixels * channels) / full;
      if (idle < least) least = idle, width = pixels * channels;
    }
    const int64_t elements = extent.outer / images * channels;
    const int64_t block = larger(channels < tile ? 1 : 16, BLOCK / width) * width;
    const int64_t each = ceil_div(elements, block);
    return {width, elements, block, each, each * images};
  }
  RowsPart<T> part(int64_t b) const {
    const int64_t image = b / blocks_of_image, start = b % blocks_of_image * block;
    const int64_t end = smaller(elements, start + block), first = image * elements;
    return {b, image, first + start, first + end, width};
  }
};

// Where a channel of a sample is contiguous: parts of samples' channels.
template <class T>
struct Spans {
  int64_t samples, channels, inner, samples_in_block, span, spans, blocks;

  static Spans of(const Extent& extent) {
    const int64_t samples = larger(1, BLOCK / extent.inner);
    const int64_t span = smaller(BLOCK, extent.inner), spans = ceil_div(extent.inner, span);
    return {extent.outer, extent.channels, extent.inner, samples, span, spans,
            ceil_div(extent.outer, samples) * spans};
  }
  SpansPart<T> part(int64_t block, int64_t channel) const {
    const int64_t sample = block / spans * samples_in_block, start = block % spans * span;
    return {block,
            channel,
            (sample * channels + channel) * inner + start,
            smaller(samples_in_block, samples - sample),
            channels * inner,
            smaller(span, inner - start)};
  }
};

template <class T>
struct Layout {
  Extent extent;
  bool by_rows;
  Rows<T> rows;
  Spans<T> spans;
  int64_t width, blocks;

  explicit Layout(const Extent& given, int64_t images = 1)
      : extent(given), by_rows(false), rows{}, spans{} {
    // A single channel is one long span.
    if (given.channels == 1) extent = {1, 1, given.outer * given.inner};
    by_rows = extent.inner == 1 && extent.channels > 1;
    if (by_rows)
      rows = Rows<T>::of(extent, images);
    else
      spans = Spans<T>::of(extent);
    width = by_rows ? rows.width : extent.channels;
    blocks = by_rows ? rows.blocks : spans.blocks;
  }

  // Calls `function(part)` for all parts of `count` tensors. What it captures by value stays in
  // registers of each thread, in spite of what it stores.
  template <class Function>
  void for_parts(int64_t count, int threads, Function function) const {
    const int64_t terms = extent.outer * extent.channels * extent.inner * count;
    threads = threads_for(terms / STREAMED, threads);
    if (by_rows) {
#pragma omp parallel for num_threads(threads) schedule(static) firstprivate(function)
      for (int64_t block = 0; block < blocks; ++block) function(rows.part(block));
    } else {
#pragma omp parallel for num_threads(threads) schedule(static) firstprivate(function)
      for (int64_t item = 0; item < blocks * width; ++item)
        function(spans.part(item / width, item % width));
    }
  }
};

// [count, channels] as [count, width]: repeated for the pixels of a row.
template <class T>
class Repeated {
 public:
  Repeated(const void* values, int64_t count, const Layout<T>& layout)
      : storage_(layout.width == layout.extent.channels ? 0 : count * layout.width),
        values_(static_cast<const Scalar<T>*>(values)),
        width_(layout.width) {
    const int64_t channels = layout.extent.channels;
    if (width_ == channels) return;
    for (int64_t k = 0; k < count; ++k)
      for (int64_t j = 0; j < width_; ++j)
        storage_[k * width_ + j] = values_[k * channels + j % channels];
    values_ = storage_.at(0);
  }
  const Scalar<T>* row(int64_t k) const { return values_ + k * width_; }

 private:
  Workspace<Scalar<T>> storage_;
  const Scalar<T>* values_;
  int64_t width_;
};

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
