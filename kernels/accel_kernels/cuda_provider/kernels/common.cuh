// What every kernel here shares. No header of a toolkit is needed: conversions are written in PTX.
//
// Compiled with these set: BF16 (activations are bf16, else fp16), BITS (4 or 8), GROUP (input
// features a group, 0 for one group a channel), SCALE (0 fp16, 1 bf16, 2 fp32).
//
// A weight's layout, made by layout.py. T counts tiles of 64 output features, C chunks of 64 input
// features; g = lane / 4 and t = lane % 4 as in mma.sync's fragments:
//   words  [T][C][n16 tile 0..3][lane][4]  (8 bits: [T][C][n16][2][lane][4])
//          word s of a lane is the A fragment of step s, k = 16 s + 2 t + {0, 1, 8, 9}, rows g and
//          g + 8 of the tile: as mma.sync and wgmma draw it, k in its natural order
//   scales [T][group][g][n16 tile 0..3][row g, row g + 8]
//   zeros  as scales, in BITS bits
// Steps 0, 1 and steps 2, 3 are different runs of 32 input features, so that a group may be 32 long.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

#define INLINE __device__ __forceinline__

constexpr int CHUNK = 64;
constexpr int TILE = 64;
constexpr int VECTORS = BITS / 4;  // 16-byte loads a lane makes for one n16 tile of a chunk
constexpr bool TWO_GROUPS = GROUP != 0 && GROUP % CHUNK != 0;
constexpr int HALVES = TWO_GROUPS ? 2 : 1;

INLINE uint4 load_once(const uint4* at) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at)
               : "memory");
  return v;
}

INLINE float half_to_float(u16 h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
  return f;
}

INLINE float bfloat_to_float(u16 h) { return __uint_as_float(u32(h) << 16); }

INLINE u16 float_to_half(float f) {
  u16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}

INLINE u16 float_to_bfloat(float f) {
#if __CUDA_ARCH__ >= 800
  u16 h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
#else
  const u32 bits = __float_as_uint(f);
  if (f != f) return 0x7fff;
  return u16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#endif
}

// A scale as it is stored, by its index.
INLINE float read_scale(const void* scales, u64 index) {
#if SCALE == 2
  return static_cast<const float*>(scales)[index];
#else
  const u16 h = static_cast<const u16*>(scales)[index];
  return SCALE ? bfloat_to_float(h) : half_to_float(h);
#endif
}

INLINE float2 pair_of_scales(u32 pair) {
  const u16 low = u16(pair), high = u16(pair >> 16);
  return SCALE ? make_float2(bfloat_to_float(low), bfloat_to_float(high))
               : make_float2(half_to_float(low), half_to_float(high));
}

INLINE int group_of(int k) { return GROUP ? k / (GROUP ? GROUP : 1) : 0; }
