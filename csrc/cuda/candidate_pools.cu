// Pools of a source on GPUs: largest and average of 3x3 windows, and their gradients.
//
// Backwards a block keeps the pixels around its tile in shared memory, finds which pixel each window
// chose, and then gathers: nothing is added to memory that others write.

#include "cuda_candidates.h"
#include "tiles.cuh"

namespace ssfnas {
namespace cuda {
namespace {

// A 3x3 window of an image, cut off at its border.
struct Window {
  int top, left;            // of the whole window, maybe outside
  int y0, y1, x0, x1;       // of the part inside

  __device__ Window(int y, int x, int stride, int height, int width)
      : top(y * stride - 1), left(x * stride - 1) {
    y0 = top < 0 ? 0 : top;
    x0 = left < 0 ? 0 : left;
    y1 = top + 3 > height ? height : top + 3;
    x1 = left + 3 > width ? width : left + 3;
  }
  __device__ int pixels() const { return (y1 - y0) * (x1 - x0); }
};

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(const T* x, T* largest, T* average, int64_t images, int height, int width,
                   int channels, int stride, int out_height, int out_width) {
  const int packs = channels / VEC;
  int64_t place = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (place >= images * out_height * out_width * packs) return;
  const int64_t to = place * VEC;
  const int channel = static_cast<int>(place % packs) * VEC;
  place /= packs;
  const int col = static_cast<int>(place % out_width);
  place /= out_width;
  const int row = static_cast<int>(place % out_height);
  const T* image = x + place / out_height * height * width * channels + channel;
  const Window window(row, col, stride, height, width);
  Values<T, VEC> best{}, total{};
  for (int y = window.y0; y < window.y1; ++y)
    for (int i = window.x0; i < window.x1; ++i) {
      const Values<T, VEC> value =
          load<VEC>(image + (static_cast<int64_t>(y) * width + i) * channels);
      const bool first = y == window.y0 && i == window.x0;
#pragma unroll
      for (int k = 0; k < VEC; ++k) {
        total.v[k] += value.v[k];
        // NaN is what is chosen.
        if (first || value.v[k] > best.v[k] || value.v[k] != value.v[k]) best.v[k] = value.v[k];
      }
    }
#pragma unroll
  for (int k = 0; k < VEC; ++k) total.v[k] /= static_cast<Scalar<T>>(window.pixels());
  store<VEC>(largest + to, best);
  store<VEC>(average + to, total);
}

template <class T>
struct Backward {
  Tiling tiling;  // of the source
  const T* x;
  const T* d_largest;
  const T* d_average;
  const T* into;
  T* dx;
  int stride, out_height, out_width;
};

template <class T, int VEC>
__global__ void __launch_bounds__(THREADS)
    backward_kernel(const __grid_constant__ Backward<T> task) {
  SSFNAS_SHARED_MEMORY(memory);
  const Tiling& t = task.tiling;
  const Lane<VEC> lane(t);
  const Corner corner(t, blockIdx.x);
  const int stride = task.stride, width = t.columns * VEC;
  const int step = blockDim.x / t.columns, start = threadIdx.x / t.columns;
  const Box windows = reaching(corner.y, corner.x, t.rows, t.across, stride, 1);
  const Box box = reached(windows.y, windows.x, windows.rows, windows.cols, stride, 1);
  T* pixels = reinterpret_cast<T*>(memory);
  unsigned char* chosen = memory + box_bytes<T>(box, t.columns, VEC);
  if (task.d_largest != nullptr) {
    const T* image = task.x + corner.image * t.height * t.width * t.channels;
    // With more at once ptxas spills registers.
    load_box<VEC, (VEC > 1 ? 2 : 1)>(pixels, box, image, t.height, t.width, t, lane, Unchanged{});
    __syncthreads();
    for (int place = start; place < windows.rows * windows.cols; place += step) {
      const int row = windows.y + place / windows.cols, col = windows.x + place % windows.cols;
      if (row < 0 || col < 0 || row >= task.out_height || col >= task.out_width) continue;
      const Window window(row, col, stride, t.height, t.width);
      Values<T, VEC> best{};
      unsigned char taps[VEC] = {};
      for (int y = window.y0; y < window.y1; ++y)
        for (int i = window.x0; i < window.x1; ++i) {
          const Values<T, VEC> value =
              load<VEC>(pixels + ((y - box.y) * box.pitch() + i - box.x) * width +
                        lane.column * VEC);
          const bool first = y == window.y0 && i == window.x0;
          const int tap = (y - window.top) * 3 + i - window.left;
#pragma unroll
          for (int k = 0; k < VEC; ++k)
            if (first || value.v[k] > best.v[k] || value.v[k] != value.v[k])
              best.v[k] = value.v[k], taps[k] = static_cast<unsigned char>(tap);
        }
#pragma unroll
      for (int k = 0; k < VEC; ++k) chosen[place * width + lane.column * VEC + k] = taps[k];
    }
    __syncthreads();
  }
  if (!lane.live) return;
  for (int place = start; place < t.rows * t.across; place += step) {
    const int y = corner.y + place / t.across, x = corner.x + place % t.across;
    if (y >= t.height || x >= t.width) continue;
    Values<T, VEC> total{};
    // Windows that a pixel is in begin at most two before it.
    for (int row = floor_div(y + stride - 2, stride); row * stride <= y + 1; ++row) {
      const int ky = y - (row * stride - 1);
      if (row < 0 || row >= task.out_height) continue;
      for (int col = floor_div(x + stride - 2, stride); col * stride <= x + 1; ++col) {
        const int kx = x - (col * stride - 1);
        if (col < 0 || col >= task.out_width) continue;
        const int64_t from =
            ((corner.image * task.out_height + row) * task.out_width + col) * t.channels +
            lane.channel;
        if (task.d_largest != nullptr) {
          const Values<T, VEC> gradient = load<VEC>(task.d_largest + from);
          const unsigned char* taps =
              chosen + ((row - windows.y) * windows.cols + col - windows.x) * width +
              lane.column * VEC;
#pragma unroll
          for (int k = 0; k < VEC; ++k)
            if (taps[k] == ky * 3 + kx) total.v[k] += gradient.v[k];
        }
        if (task.d_average != nullptr) {
          const Values<T, VEC> gradient = load<VEC>(task.d_average + from);
          const Window window(row, col, stride, t.height, t.width);
          const Scalar<T> share = Scalar<T>(1) / static_cast<Scalar<T>>(window.pixels());
#pragma unroll
          for (int k = 0; k < VEC; ++k) total.v[k] += gradient.v[k] * share;
        }
      }
    }
    const int64_t to =
        ((corner.image * t.height + y) * t.width + x) * t.channels + lane.channel;
    if (task.into != nullptr) {
      const Values<T, VEC> before = load<VEC>(task.into + to);
#pragma unroll
      for (int k = 0; k < VEC; ++k) total.v[k] += before.v[k];
    }
    store<VEC>(task.dx + to, total);
  }
}

template <class T, int VEC>
int backward_bytes(int stride, int rows, int across, int columns) {
  Box windows = reaching(0, 0, rows, across, stride, 1);
  ++windows.rows, ++windows.cols;
  const Box box = reached(0, 0, windows.rows, windows.cols, stride, 1);
  return box_bytes<T>(box, columns, VEC) +
         rounded_up(windows.rows * windows.cols * columns * VEC, 16);
}

}  // namespace

void pools_forward(const PoolsForward& args, int device, void* stream) {
  const OnDevice guard(device);
  const bool wide = args.channels % full_of(args.dtype) == 0 && aligned(args.x) &&
                    aligned(args.largest) && aligned(args.average);
  for_dtype(args.dtype, wide, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    const int64_t out_height = ceil_div(args.height, args.stride);
    const int64_t out_width = ceil_div(args.width, args.stride);
    const int64_t places = args.images * out_height * out_width * (args.channels / VEC);
    SSFNAS_LAUNCH((forward_kernel<T, VEC>), dim3(blocks(ceil_div(places, THREADS))), THREADS, 0,
                  stream, static_cast<const T*>(args.x), static_cast<T*>(args.largest),
                  static_cast<T*>(args.average), args.images, static_cast<int>(args.height),
                  static_cast<int>(args.width), static_cast<int>(args.channels),
                  static_cast<int>(args.stride), static_cast<int>(out_height),
                  static_cast<int>(out_width));
    check(cudaGetLastError(), "pools_forward");
  });
}

void pools_backward(const PoolsBackward& args, int device, void* stream) {
  const OnDevice guard(device);
  const bool wide = args.channels % full_of(args.dtype) == 0 && aligned(args.x) &&
                    aligned(args.d_largest) && aligned(args.d_average) && aligned(args.into) &&
                    aligned(args.dx);
  for_dtype(args.dtype, wide, [&](auto tag, auto vec) {
    using T = typename decltype(tag)::type;
    constexpr int VEC = decltype(vec)::value;
    const int stride = static_cast<int>(args.stride);
    const auto bytes = [&](int rows, int across, int columns) {
      return backward_bytes<T, VEC>(stride, rows, across, columns);
    };
    Backward<T> task{};
    task.tiling = best_tiling(args.images, args.height, args.width, args.channels, VEC,
                              MOST_COLUMNS, 18.0, bytes);
    task.x = static_cast<const T*>(args.x);
    task.d_largest = static_cast<const T*>(args.d_largest);
    task.d_average = static_cast<const T*>(args.d_average);
    task.into = static_cast<const T*>(args.into);
    task.dx = static_cast<T*>(args.dx);
    task.stride = stride;
    task.out_height = static_cast<int>(ceil_div(args.height, args.stride));
    task.out_width = static_cast<int>(ceil_div(args.width, args.stride));
    const Tiling& t = task.tiling;
    SSFNAS_LAUNCH((backward_kernel<T, VEC>), dim3(blocks(t.tiles), t.channel_tiles), t.threads,
                  bytes(t.rows, t.across, t.columns), stream, task);
    check(cudaGetLastError(), "pools_backward");
  });
}

}  // namespace cuda
}  // namespace ssfnas
