// A block of W: output features from tile `first_tile` on, as rows, by input features from chunk
// `first_chunk` on, as columns: the layout of nn.Linear, so that `rows` of `width` values are written.
//
// Also set: OUT (0 fp16, 1 bf16, 2 fp32). One warp takes 16 output features by 64 input features. Each
// lane of a quad has two values of every run of 8 input features; the quad exchanges them, so that each
// lane writes whole runs.

#include "common.cuh"

INLINE u32 value_of(const u32* words, int run, int half_row, int second) {
  const int step = run >> 1, pair = run & 1;
#if BITS == 4
  return (words[step] >> (4 * (2 * pair + half_row + 4 * second))) & 15;
#else
  return (words[step * 2 + pair] >> (16 * half_row + 8 * second)) & 255;
#endif
}

INLINE u32 two(float low, float high) {
  return OUT ? float_to_bfloat(low) | u32(float_to_bfloat(high)) << 16
             : float_to_half(low) | u32(float_to_half(high)) << 16;
}

INLINE u32 from_lane(u32 value, int mask) {
  u32 out;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(out) : "r"(value), "r"(mask));
  return out;
}

// Value i of lane t of a quad becomes value t of lane i.
INLINE void transpose(u32 (&v)[4], int t) {
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!(i & bit)) {
        const bool high = t & bit;
        const u32 other = from_lane(high ? v[i] : v[i | bit], bit);
        v[i] = high ? other : v[i];
        v[i | bit] = high ? v[i | bit] : other;
      }
}

extern "C" __global__ void __launch_bounds__(256)
dequantize(const uint4* __restrict__ words, const void* __restrict__ scales,
           const u32* __restrict__ zeros, void* __restrict__ out, int first_tile, int first_chunk,
           int rows, int width, int chunks, int groups) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, g = lane >> 2, t = lane & 3;
  const int column = warp & 3, local = blockIdx.y * 2 + (warp >> 2);
  const int c = first_chunk + local, tile = first_tile + blockIdx.x;
  if (local * CHUNK >= width) return;
  const uint4* from = words + ((u64(tile) * chunks + c) * 4 + column) * (32 * VECTORS) + lane;
  u32 lane_words[4 * VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const uint4 v = load_once(from + i * 32);
    lane_words[4 * i] = v.x, lane_words[4 * i + 1] = v.y;
    lane_words[4 * i + 2] = v.z, lane_words[4 * i + 3] = v.w;
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const u64 group = (u64(tile) * groups + min(group_of(c * CHUNK + 32 * j), groups - 1)) * 8 + g;
#pragma unroll
    for (int half_row = 0; half_row < 2; ++half_row) {
      const int at = column * 2 + half_row, row = blockIdx.x * TILE + column * 16 + half_row * 8 + g;
      const float scale = read_scale(scales, group * 8 + at);
      const u32 word = zeros[group * VECTORS + at * BITS / 32];
      const float zero = float((word >> (at * BITS % 32)) & ((1 << BITS) - 1));
      float v[4][2];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        v[i >> 1][i & 1] = (float(value_of(lane_words, 4 * j + (i >> 1), half_row, i & 1)) - zero) * scale;
#if OUT == 2
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = local * CHUNK + 32 * j + 8 * i;
        if (row < rows && k < width)
          *reinterpret_cast<float2*>(static_cast<float*>(out) + u64(row) * width + k + 2 * t) =
              make_float2(v[i][0], v[i][1]);
      }
#else
      u32 packed[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) packed[i] = two(v[i][0], v[i][1]);
      transpose(packed, t);
      const int k = local * CHUNK + 32 * j + 8 * t;
      if (row < rows && k < width)
        *reinterpret_cast<uint4*>(static_cast<u16*>(out) + u64(row) * width + k) =
            make_uint4(packed[0], packed[1], packed[2], packed[3]);
#endif
    }
  }
}
