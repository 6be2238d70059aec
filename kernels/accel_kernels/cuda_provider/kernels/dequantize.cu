// A block of W: output features from tile `first_tile` on, as rows, by input features from chunk
// `first_chunk` on, as columns: the layout of nn.Linear, so that `rows` of `width` values are written.
//
// Also set: OUT (0 fp16, 1 bf16, 2 fp32). One warp writes 16 output features by 64 input features;
// a quad of lanes writes 64 bytes (16 bits) side by side, so that every sector is whole.

#include "common.cuh"

INLINE u32 value_of(const u32* words, int step, int half_row, int i) {
  const int pair = i >> 1, second = i & 1;
#if BITS == 4
  return (words[step] >> (4 * (2 * pair + half_row + 4 * second))) & 15;
#else
  return (words[step * 2 + pair] >> (16 * half_row + 8 * second)) & 255;
#endif
}

#if OUT == 2
INLINE void store_run(void* out, u64 at, const float (&v)[8]) {
  float4* to = reinterpret_cast<float4*>(static_cast<float*>(out) + at);
  to[0] = make_float4(v[0], v[1], v[2], v[3]);
  to[1] = make_float4(v[4], v[5], v[6], v[7]);
}
#else
INLINE u32 two(float low, float high) {
  return OUT ? float_to_bfloat(low) | u32(float_to_bfloat(high)) << 16
             : float_to_half(low) | u32(float_to_half(high)) << 16;
}

INLINE void store_run(void* out, u64 at, const float (&v)[8]) {
  *reinterpret_cast<uint4*>(static_cast<u16*>(out) + at) =
      make_uint4(two(v[0], v[1]), two(v[2], v[3]), two(v[4], v[5]), two(v[6], v[7]));
}
#endif

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
    const int k = local * CHUNK + 32 * j + 8 * t;
    if (k >= width) continue;
    const u64 group = (u64(tile) * groups + group_of(c * CHUNK + 32 * j)) * 8 + g;
#pragma unroll
    for (int half_row = 0; half_row < 2; ++half_row) {
      const int at = column * 2 + half_row, row = blockIdx.x * TILE + column * 16 + half_row * 8 + g;
      if (row >= rows) continue;
      const float scale = read_scale(scales, group * 8 + at);
      const u32 word = zeros[group * VECTORS + at * BITS / 32];
      const float zero = float((word >> (at * BITS % 32)) & ((1 << BITS) - 1));
      float v[8];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        v[i] = (float(value_of(lane_words, 2 * j + (i >> 2), half_row, i & 3)) - zero) * scale;
      store_run(out, u64(row) * width + k, v);
    }
  }
}
