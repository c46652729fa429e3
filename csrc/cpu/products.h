// Products over channels, and sums of products over pixels, of a tile in scratch memory.
//
// With bfloat16 tensors and a CPU that has AMX they are computed by its matrix unit: factors are
// rounded to bfloat16, and sums are kept in float. Everything else goes through depthwise.h.
#pragma once

#include "depthwise.h"
#include "packed_pixels.h"

namespace ssfnas {
namespace SSFNAS_ISA {

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define SSFNAS_MATRIX_UNIT
#endif

template <class T>
constexpr bool by_matrix_unit = false;

// Whether the unit is faster: for one vector by one, bringing numbers to it and back takes longer.
template <class T>
bool worth_the_unit(int64_t vectors_in, int64_t vectors_out) {
  return by_matrix_unit<T> && vectors_in * vectors_out > 1;
}

// How the unit is set up on a thread while one of these lives.
template <class T>
struct MatrixUnit {};

#ifdef SSFNAS_MATRIX_UNIT
// GCC 12 warns of the undefined vectors that its own intrinsics begin with.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

template <>
constexpr bool by_matrix_unit<bfloat16> = true;

// A register of the unit has 16 rows of 64 bytes. Registers 0 to 3 are sums, 4 is the left factor of
// a product, 5 the right one; 6 and 7 are those of a sum over pixels, which has 32 terms at a time.
constexpr int64_t LANES = 16, UNIT_PIXELS = 16, PAIRED = 32;

inline void configure(int64_t pixels) {
  struct {
    uint8_t palette, row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } config = {};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) config.rows[i] = 16, config.bytes[i] = 64;
  for (int i = 0; i < 4; ++i) config.rows[i] = static_cast<uint8_t>(pixels);
  config.rows[4] = static_cast<uint8_t>(pixels), config.bytes[4] = 32;
  config.rows[5] = 8;
  _tile_loadconfig(&config);
}

template <>
struct MatrixUnit<bfloat16> {
  MatrixUnit() { configure(UNIT_PIXELS); }
  ~MatrixUnit() { _tile_release(); }
};

SSFNAS_INLINE __m256i rounded(const float* from) {
  return (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from));
}

// [outputs of a vector][pairs of channels] as the unit reads them: a row for each pair of channels.
inline void pack_unit(const float* weights, int64_t inputs, int64_t width, bfloat16* to) {
  // `weights` is [inputs of a vector][width]
  for (int64_t o = 0; o < width / LANES; ++o)
    for (int64_t i = 0; i < LANES; ++i)
      for (int64_t lane = 0; lane < LANES; ++lane) {
        const float value = i < inputs ? weights[i * width + o * LANES + lane] : 0;
        const Floats all = everywhere<Floats>(value);
        to[((o * 8 + i / 2) * LANES + lane) * 2 + i % 2].bits = narrowed(all, bfloat16{})[0];
      }
}

template <int N>
inline void mix_unit(const bfloat16* from, int64_t vectors, int64_t plane, const bfloat16* weights,
                     int64_t step, float* to, int64_t to_plane, int64_t count) {
  const int64_t each = smaller(UNIT_PIXELS, count);
  for (int64_t pixel = 0; pixel < count; pixel += each) {
    // The last pixels are computed with some before them once more.
    const int64_t at = smaller(pixel, count - each) * LANES;
    _tile_zero(0);
    if (N > 1) _tile_zero(1);
    if (N > 2) _tile_zero(2);
    if (N > 3) _tile_zero(3);
    for (int64_t v = 0; v < vectors; ++v) {
      const bfloat16* right = weights + v * step;
      _tile_loadd(4, from + v * plane + at, 32);
      _tile_loadd(5, right, 64);
      _tile_dpbf16ps(0, 4, 5);
      if (N > 1) {
        _tile_loadd(5, right + 256, 64);
        _tile_dpbf16ps(1, 4, 5);
      }
      if (N > 2) {
        _tile_loadd(5, right + 512, 64);
        _tile_dpbf16ps(2, 4, 5);
      }
      if (N > 3) {
        _tile_loadd(5, right + 768, 64);
        _tile_dpbf16ps(3, 4, 5);
      }
    }
    _tile_stored(0, to + at, 64);
    if (N > 1) _tile_stored(1, to + to_plane + at, 64);
    if (N > 2) _tile_stored(2, to + 2 * to_plane + at, 64);
    if (N > 3) _tile_stored(3, to + 3 * to_plane + at, 64);
  }
}

// The dwords of a 16 x 16 matrix, rows and columns exchanged.
inline void transpose(__m512i (&m)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(m[i], m[i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(m[i], m[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(m[i + 2], m[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(m[i + 2], m[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c), t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d), t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
    m[i] = _mm512_shuffle_i32x4(a, c, 0x88), m[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    m[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), m[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Pixels in pairs, channel by channel: [32 pixels][16 channels] each to 16 rows of 16 pairs; a row
// is a pair of pixels, or, transposed, a channel. Pixels beyond the last are zero.
template <bool TRANSPOSED>
inline void pair_pixels(const float* from, int64_t count, bfloat16* to) {
  alignas(64) static const uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                 21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleaved = _mm512_load_si512(order);
  for (int64_t first = 0; first < count; first += PAIRED, to += PAIRED * LANES) {
    __m512i rows[16];
    for (int64_t row = 0; row < 16; ++row) {
      const int64_t pixel = first + 2 * row;
      const float* at = from + pixel * LANES;
      const __m512 even = pixel < count ? _mm512_loadu_ps(at) : _mm512_setzero_ps();
      const __m512 odd = pixel + 1 < count ? _mm512_loadu_ps(at + LANES) : _mm512_setzero_ps();
      rows[row] = _mm512_permutexvar_epi16(interleaved, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
    }
    if (TRANSPOSED) transpose(rows);
    for (int64_t row = 0; row < 16; ++row) _mm512_storeu_si512(to + row * PAIRED, rows[row]);
  }
}

template <int N>
inline void sum_unit(const bfloat16* left, const bfloat16* right, int64_t plane, int64_t count,
                     float* sums, int64_t width) {
  alignas(64) float found[16 * LANES];
  _tile_zero(0);
  if (N > 1) _tile_zero(1);
  if (N > 2) _tile_zero(2);
  if (N > 3) _tile_zero(3);
  for (int64_t first = 0; first < count; first += PAIRED) {
    const bfloat16* at = right + first * LANES;
    _tile_loadd(6, left + first * LANES, 64);
    _tile_loadd(7, at, 64);
    _tile_dpbf16ps(0, 6, 7);
    if (N > 1) {
      _tile_loadd(7, at + plane, 64);
      _tile_dpbf16ps(1, 6, 7);
    }
    if (N > 2) {
      _tile_loadd(7, at + 2 * plane, 64);
      _tile_dpbf16ps(2, 6, 7);
    }
    if (N > 3) {
      _tile_loadd(7, at + 3 * plane, 64);
      _tile_dpbf16ps(3, 6, 7);
    }
  }
  for (int k = 0; k < N; ++k) {
    if (k == 0) _tile_stored(0, found, 64);
    if (k == 1) _tile_stored(1, found, 64);
    if (k == 2) _tile_stored(2, found, 64);
    if (k == 3) _tile_stored(3, found, 64);
    for (int64_t i = 0; i < LANES; ++i) {
      float* sum = sums + i * width + k * LANES;
      put(sum, get(sum) + get(found + i * LANES));
    }
  }
}

template <int V>
struct Constant {
  static constexpr int value = V;
};

// Calls `function` with the number of registers for each group of at most four vectors.
template <class Function>
inline void in_fours(int64_t vectors, Function function) {
  for (int64_t v = 0; v < vectors; v += 4) switch (smaller(4, vectors - v)) {
      case 1:
        function(Constant<1>{}, v);
        break;
      case 2:
        function(Constant<2>{}, v);
        break;
      case 3:
        function(Constant<3>{}, v);
        break;
      default:
        function(Constant<4>{}, v);
    }
}

#endif

// Weights of a product over channels: [inputs][width], and for the matrix unit as it reads them.
template <class T>
class Mixing {
 public:
  using S = Scalar<T>;

  // Of `packed`, in halves.
  static int64_t size(int64_t vectors_in, int64_t width) {
    return worth_the_unit<T>(vectors_in, width / lanes<T>) ? vectors_in * width * lanes<T> : 0;
  }
  Mixing() = default;
  // A vector may hold `pack` pixels of few channels, and their outputs.
  Mixing(const S* weights, Channels channels, int64_t width, bfloat16* packed, int64_t pack = 1)
      : weights_(weights), channels_(channels), width_(width), pack_(pack), packed_(packed) {
    vectors_ = channels.tensors * ceil_div(channels.each, lanes<T>);
#ifdef SSFNAS_MATRIX_UNIT
    if constexpr (by_matrix_unit<T>)
      if (by_unit()) for_vectors([&](int64_t v, const S* rows, int64_t inputs) {
        pack_unit(rows, inputs, width_, packed_ + v * width_ * LANES);
      });
#endif
  }
  bool by_unit() const { return worth_the_unit<T>(vectors_, width_ / lanes<T>); }

  // to[pixel][o] = sum_i from[pixel][i] weights[i][o]; `room` for as many halves as `from` has.
  void operator()(const S* from, int64_t plane, S* to, int64_t to_plane, int64_t count,
                  bfloat16* room) const {
#ifdef SSFNAS_MATRIX_UNIT
    if constexpr (by_matrix_unit<T>) if (by_unit()) {
      for (int64_t v = 0; v < vectors_; ++v)
        for (int64_t i = 0; i < count * LANES; i += LANES)
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(room + v * count * LANES + i),
                              rounded(from + v * plane + i));
      if (count < UNIT_PIXELS) configure(count);
      in_fours(width_ / LANES, [&](auto number, int64_t v) {
        mix_unit<decltype(number)::value>(room, vectors_, count * LANES, packed_ + v * 256,
                                          width_ * LANES, to + v * to_plane, to_plane, count);
      });
      if (count < UNIT_PIXELS) configure(UNIT_PIXELS);
      return;
    }
#endif
    (void)room;
    if (pack_ > 1)
      mix_packed(from, channels_.each, weights_, to, count);
    else
      mix(from, plane, channels_, weights_, width_, to, to_plane, count);
  }

 private:
  // Calls `function` with each vector of inputs, its rows and their number.
  template <class Function>
  void for_vectors(Function function) const {
    int64_t v = 0;
    const S* rows = weights_;
    for (int64_t tensor = 0; tensor < channels_.tensors; ++tensor)
      for (int64_t first = 0; first < channels_.each; first += lanes<T>) {
        const int64_t inputs = smaller(lanes<T>, channels_.each - first);
        function(v++, rows, inputs);
        rows += inputs * width_;
      }
  }

  const S* weights_;
  Channels channels_;
  int64_t width_, vectors_, pack_;
  bfloat16* packed_;
};

// Room for the pixels of one factor of a sum of products, in halves. Such a sum needs it for all
// vectors of the outputs and one more.
template <class T>
int64_t paired_size(int64_t vectors, int64_t pixels) {
  return by_matrix_unit<T> ? vectors * ceil_div(pixels, 32) * 32 * lanes<T> : 0;
}

// sums[i][o] += sum over pixels of inputs[pixel][i] outputs[pixel][o]
template <class T>
void add_pixel_products(const Scalar<T>* inputs, Channels channels, const Scalar<T>* outputs,
                        int64_t plane, int64_t count, Scalar<T>* sums, int64_t width,
                        bfloat16* room) {
  constexpr int64_t L = lanes<T>;
  const int64_t vectors = ceil_div(channels.each, L);
#ifdef SSFNAS_MATRIX_UNIT
  if constexpr (by_matrix_unit<T>) if (worth_the_unit<T>(channels.tensors * vectors, width / L)) {
    const int64_t paired = paired_size<T>(1, count);
    bfloat16* left = room + width / L * paired;
    for (int64_t v = 0; v < width / L; ++v)
      pair_pixels<false>(outputs + v * plane, count, room + v * paired);
    for (int64_t v = 0; v < channels.tensors * vectors; ++v) {
      pair_pixels<true>(inputs + v * plane, count, left);
      in_fours(width / L, [&](auto number, int64_t o) {
        sum_unit<decltype(number)::value>(left, room + o * paired, paired, count,
                                          sums + v * L * width + o * L, width);
      });
    }
    return;
  }
#endif
  (void)room;
  for (int64_t t = 0; t < channels.tensors; ++t)
    add_products(inputs + t * vectors * plane, plane, outputs, plane, count, channels.each,
                 sums + t * vectors * L * width, width);
}

}  // namespace SSFNAS_ISA
}  // namespace ssfnas
