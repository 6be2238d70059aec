// Packed words to the A fragments of mma.sync, and the products.
//
// fp16: q becomes the number 1024 + q, or 1024 + 16 q where it stands four bits higher, by writing its
// bits into the mantissa; one fused multiply-add makes q - z of it.
// bf16: 128 + q likewise; four bits higher q would reach into the exponent, but alone in a word it is
// the subnormal number 16 q / 2**133, which 2**127 takes to q / 4. So all bf16 values are (q - z) / 4.
// Both are exact. The scale is applied to the fp32 sum of a group: no weight is ever rounded.

#if BF16
#define ELEMENT "bf16"
#else
#define ELEMENT "f16"
#endif

struct Zeros {
  u32 low;   // twice, for the values of row g
  u32 high;  // for those of row g + 8
#if BF16 && BITS == 8
  float exact[2];
#endif
};

constexpr float UNIT = BF16 && BITS == 4 ? 4.0f : 1.0f;  // what a sum is still to be multiplied by

INLINE u32 select_or(u32 word, u32 mask, u32 bits) {
  u32 out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(word), "r"(mask), "r"(bits));
  return out;
}

INLINE u32 fma2(u32 a, u32 b, u32 c) {
  u32 out;
#if BF16
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
#else
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
#endif
  return out;
}

#if BITS == 4
// The low nibbles of bytes 0 and 2 are the zeros that `low` takes off, the high ones those of `high`.
INLINE Zeros zeros_of_both(u32 both) {
  Zeros out;
#if BF16
  out.low = select_or(both, 0x000f000fu, 0xc200c200u);               // -(32 + z / 4)
  out.high = fma2(both & 0x00f000f0u, 0xff00ff00u, 0x80008000u);     // -z / 4
#else
  out.low = select_or(both, 0x000f000fu, 0xe400e400u);               // -(1024 + z)
  out.high = select_or(both, 0x00f000f0u, 0xd400d400u);              // -(64 + z)
#endif
  return out;
}

// `byte` of the word holds the zeros of rows g and g + 8.
INLINE Zeros zeros_of(u32 word, int byte) {
  return zeros_of_both(__byte_perm(word, 0, 0x4040 + byte * 0x0101));
}

// The values in the low nibbles of a word's bytes 0 and 2, and in the high ones, less the zeros.
INLINE u32 low_pair(u32 word, u32 zeros) {
  return BF16 ? fma2(select_or(word, 0x000f000fu, 0x43004300u), 0x3e803e80u, zeros)
              : fma2(select_or(word, 0x000f000fu, 0x64006400u), 0x3c003c00u, zeros);
}

INLINE u32 high_pair(u32 word, u32 zeros) {
  return BF16 ? fma2(word & 0x00f000f0u, 0x7f007f00u, zeros)
              : fma2(select_or(word, 0x00f000f0u, 0x64006400u), 0x2c002c00u, zeros);
}

INLINE void expand(const u32* words, const Zeros& z, u32 (&a)[4]) {
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    const u32 word = words[0] >> (8 * pair);
    a[2 * pair] = low_pair(word, z.low);
    a[2 * pair + 1] = high_pair(word, z.high);
  }
}
#else
// Two bytes from `byte` on hold the zeros of rows g and g + 8.
INLINE Zeros zeros_of(u32 word, int byte) {
  Zeros out;
#if BF16
  out.exact[0] = -8388608.0f - float((word >> (8 * byte)) & 255);
  out.exact[1] = -8388608.0f - float((word >> (8 * byte + 8)) & 255);
#else
  out.low = __byte_perm(word, 0xe4e4e4e4u, 0x4040 + byte * 0x0101);
  out.high = __byte_perm(word, 0xe4e4e4e4u, 0x4141 + byte * 0x0101);
#endif
  return out;
}

INLINE u32 pair_of_bytes(u32 word, int second, const Zeros& z, int row) {
#if BF16
  const float low = __uint_as_float(__byte_perm(word, 0x4b000000u, second ? 0x7652 : 0x7650));
  const float high = __uint_as_float(__byte_perm(word, 0x4b000000u, second ? 0x7653 : 0x7651));
  u32 out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
      : "=r"(out)
      : "f"(high + z.exact[row]), "f"(low + z.exact[row]));
  return out;
#else
  const u32 magic = __byte_perm(word, 0x64646464u, second ? 0x4342 : 0x4140);
  return fma2(magic, 0x3c003c00u, row ? z.high : z.low);
#endif
}

INLINE void expand(const u32* words, const Zeros& z, u32 (&a)[4]) {
#pragma unroll
  for (int r = 0; r < 4; ++r) a[r] = pair_of_bytes(words[r >> 1], r & 1, z, r & 1);
}
#endif

// sum = a b, or sum += a b.
#define MMA(SHAPE, TYPE, A, B, ...)                                                              \
  if (fresh)                                                                                     \
    asm volatile("mma.sync.aligned." SHAPE ".row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, " A \
                 ", " B ", {%4, %4, %4, %4};"                                                    \
                 : "=f"(sum[0]), "=f"(sum[1]), "=f"(sum[2]), "=f"(sum[3])                        \
                 : "f"(0.0f), __VA_ARGS__);                                                      \
  else                                                                                           \
    asm volatile("mma.sync.aligned." SHAPE ".row.col.f32." TYPE "." TYPE ".f32 {%0, %1, %2, %3}, " A \
                 ", " B ", {%0, %1, %2, %3};"                                                    \
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                        \
                 : "f"(0.0f), __VA_ARGS__);

INLINE void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1, bool fresh) {
#if __CUDA_ARCH__ >= 800
  MMA("m16n8k16", ELEMENT, "{%5, %6, %7, %8}", "{%9, %10}", "r"(a[0]), "r"(a[1]), "r"(a[2]),
      "r"(a[3]), "r"(b0), "r"(b1))
#else
  MMA("m16n8k8", "f16", "{%5, %6}", "{%7}", "r"(a[0]), "r"(a[1]), "r"(b0))
  fresh = false;
  MMA("m16n8k8", "f16", "{%5, %6}", "{%7}", "r"(a[2]), "r"(a[3]), "r"(b1))
#endif
}
